"""Which device a command goes to: pure functions over the devices as they stand and what is expected of the model.

Each device looked at gets the milliseconds until the command would be done there: what is queued and runs, the load
from the tier where the model is, the reload of what would have to leave, the run. The least wins; among equals a
device that has the model or is about to, then the one with less memory in use, then the first. A copy beside an
existing one costs `REPLICATION` more, so that a hot model spreads once waiting for it clearly costs more than loading
it again.

Memory is counted at the peak. A command is refused here only where it is certain that no device can ever take it; the
worker, which knows more, answers for the rest. A device under critical pressure gets no load that another can take, and
none of low priority.

The cost does not grow with the fleet: of more than `SMALL` devices those that hold the model, soonest free first, and
those that have least to do are looked at, and no further once one with the model is idle. A device without a ready
worker takes work only where none is ready.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice

from msgspec import Struct

from broker.core.context import Context
from broker.core.decision import COMING, IN_RAM, ON_DISK, Decision, Exclusion, Score
from broker.core.estimates import Estimates
from broker.core.figures import Shape, is_profile, shape_of
from broker.core.fleet import Device, Fleet
from broker.core.jobs import Job
from broker.core.pool import Pool
from broker.core.refusals import none_can, unavailable
from protocol import commands as c
from protocol.enums import LoadPriority, Tier
from protocol.link import ModelRef

SMALL = 4
"""A fleet of which every device is looked at."""

HOLDERS, OTHERS, FIRST = 3, 2, 6
"""Devices looked at in a larger one: those with the model, those beside them, and where none has it."""

UNREADY = 64
"""Devices looked at where none is ready."""

REPLICATION = 0.25
"""Share of its load that a copy beside an existing one costs more."""

_BRINGING = frozenset({c.LoadModel, c.Generate, c.OptimizeModel, c.BenchmarkModel, c.Plan})
_NONE, _TOO_SMALL, _PRESSURE = Exclusion.NONE, Exclusion.TOO_SMALL, Exclusion.PRESSURE
_VRAM, _LOW = Tier.VRAM, LoadPriority.Low
_LOOK_FURTHER = (_TOO_SMALL, Exclusion.NO_ROOM, _PRESSURE)
"""Exclusions that some other device of the fleet may not have."""


class Request(Struct, frozen=True, gc=False):
    """What a decision needs to know of a command.

    `brings`: it puts the model on the device; `forced`: even where it is; `held_only`: it runs only where it is;
    `as_filed`: nothing asks for other bytes than those of the file.
    """

    model: ModelRef
    profile: bool
    shape: Shape
    brings: bool
    forced: bool = False
    held_only: bool = False
    low: bool = False
    as_filed: bool = True


def request_of(command: c.Command, action: str, model: ModelRef) -> Request:
    """A command as decisions see it."""
    forced = held_only = False
    as_filed = True
    if isinstance(command, c.Generate):
        held_only = not command.load_if_needed
    elif isinstance(command, c.LoadFields):
        forced, as_filed = command.force, command.configuration is None
    return Request(
        model,
        is_profile(model),
        shape_of(command, action),
        type(command) in _BRINGING,
        forced,
        held_only,
        command.priority is _LOW,
        as_filed,
    )


def place(job: Job, named: Device | None, context: Context) -> Device:
    """The device for a job, whose estimate, promise and decision are noted in it.

    Raises Fault DEVICE_UNAVAILABLE, INSUFFICIENT_MEMORY.
    """
    assert job.model is not None
    now = context.clock()
    request = request_of(job.command, job.action.name, job.model)
    scores, chosen = decide(request, named, context.fleet, context.estimates, now)
    job.estimate_ms = chosen.load_ms + chosen.run_ms
    job.promised_bytes = 0 if chosen.residency == COMING else chosen.needed_bytes
    decision = job.decision = Decision(job.arrived, now, named is not None, chosen.device.device_id, scores)
    context.decisions.keep(job.request_id, decision)
    return chosen.device


def follow(job: Job, context: Context) -> None:
    """A load that another, equal one does for it went where that one went, for the same reasons."""
    if job.leader is not None and job.leader.decision is not None:
        job.decision = job.leader.decision
        context.decisions.keep(job.request_id, job.decision)


def decide(
    request: Request, named: Device | None, fleet: Fleet, estimates: Estimates, now: float
) -> tuple[list[Score], Score]:
    """The devices looked at, and the chosen one among them. Raises Fault as `place`."""
    near = fleet.near(request.model.model_id)
    if named is not None:
        scores = score((named,), request, near, estimates, now)
        chosen = scores[0]
    else:
        pool = fleet.pool(profiles=request.profile)
        scores = score(_worth_a_look(pool, near, request), request, near, estimates, now)
        best = _best(scores)
        if best is None or (best.excluded and best.excluded in _LOOK_FURTHER):
            scores = score(pool.devices, request, near, estimates, now)
            best = _best(scores)
        if best is None:
            raise unavailable(request.model, profile=request.profile, there_are_some=bool(pool.devices))
        chosen = best
    if chosen.excluded is _TOO_SMALL or (chosen.excluded is _PRESSURE and request.low):
        raise none_can(request.model, chosen, named=named is not None)
    return scores, chosen


def _worth_a_look(pool: Pool, near: Mapping[Device, int], request: Request) -> Sequence[Device]:
    """The devices with the model and the least busy ones, ready ones alone; where none is ready, whoever there is."""
    if len(pool.devices) <= SMALL:
        return pool.devices
    if not pool.occupied:
        return [*near, *(device for device in islice(pool.devices, UNREADY) if device not in near)]
    if not near:
        return pool.least(FIRST)
    devices = [device for device in islice(near, HOLDERS) if device.level >= 0]
    if devices and not devices[0].in_flight and not request.forced and devices[0].serves(request.model.model_id):
        return devices[:1]
    devices += [device for device in pool.least(OTHERS) if device not in devices]
    return devices


def score(
    devices: Iterable[Device], request: Request, near: Mapping[Device, int], estimates: Estimates, now: float
) -> list[Score]:
    """Each device's score, in order; `near` are the devices with the model, with the number of reasons why."""
    model, brings, forced, held_only = request.model, request.brings, request.forced, request.held_only
    model_id, make, scores = model.model_id, "", []
    for device in devices:
        if device.make != make:
            make = device.make
            expected = estimates.outlook(model, make, request.shape)
            run_ms, certain = expected.run_ms, expected.certain_bytes
        held, memory, in_flight = device.models.get(model_id), device.memory, device.in_flight
        if held is None:
            residency = COMING if device in near else ON_DISK
        else:
            residency = COMING if held.tier is _VRAM or near[device] > 1 else IN_RAM
        queue_ms = device.wait_ms(now) if in_flight else 0.0
        load_ms = replication_ms = eviction_ms = 0.0
        needed = 0
        if brings:
            if residency == COMING and not forced:
                needed = expected.working_bytes
            else:
                needed = expected.peak_bytes
                load_ms = expected.ram_ms if residency == IN_RAM and not forced else expected.disk_ms
                if near and residency != COMING:
                    replication_ms = load_ms * REPLICATION
            lacking = needed + device.promised_bytes - memory.free
            if lacking > 0 and memory.total:
                eviction_ms = min(lacking, needed) / expected.promote_rate
        excluded = _NONE
        if device.level < 0 or held_only or needed > memory.room or certain > memory.room:
            excluded = _exclusion(device, request, residency, needed, certain)
        total_ms = queue_ms + load_ms + replication_ms + eviction_ms + run_ms
        times = (total_ms, queue_ms, load_ms, replication_ms, eviction_ms, run_ms)
        scores.append(Score(device, excluded, *times, residency, in_flight, needed, memory))
    return scores


def _exclusion(device: Device, request: Request, residency: int, needed: int, certain: int) -> Exclusion:
    if device.disabled or device.drained:
        return Exclusion.DISABLED
    here = residency == COMING
    if request.held_only and not here:
        return Exclusion.NOT_HELD
    memory = device.memory
    if request.brings and memory.total:
        if certain > memory.total and request.as_filed:
            return Exclusion.TOO_SMALL
        if not here and needed > memory.total - memory.pinned:
            return Exclusion.NO_ROOM
        if not here and memory.critical:
            return Exclusion.PRESSURE
    return _NONE if device.takes_work else Exclusion.NOT_READY


def _best(scores: list[Score]) -> Score | None:
    """The least of those not excluded; where all are, of those excluded for the mildest reason. None: none will do."""
    best: Score | None = None
    for one in scores:
        if one.excluded is not _NONE:
            continue
        if best is None or one.total_ms < best.total_ms or (one.total_ms == best.total_ms and _wins_tie(one, best)):
            best = one
    return best if best is not None else _mildest(scores)


def _wins_tie(one: Score, other: Score) -> bool:
    if one.residency != other.residency:
        return one.residency > other.residency
    return one.memory.used < other.memory.used


def _mildest(scores: list[Score]) -> Score | None:
    """Of devices that are all excluded; where it is for want of memory, the one with most."""
    possible = [one for one in scores if one.excluded > Exclusion.DISABLED]
    mildest = max((one.excluded for one in possible), default=None)
    possible = [one for one in possible if one.excluded == mildest]
    if mildest in (Exclusion.TOO_SMALL, Exclusion.NO_ROOM):
        return max(possible, key=lambda one: one.memory.total - one.memory.pinned)
    return min(possible, key=lambda one: (one.total_ms, -one.residency, one.memory.used), default=None)
