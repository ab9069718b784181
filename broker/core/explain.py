"""`explain` and `plan`: the numbers of placement for people, and a load that is only thought through.

Both read what `placement` decides by. Texts are made here alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from posixpath import normpath

from broker.core.context import Context
from broker.core.decision import COMING, Decision, Exclusion, Score
from broker.core.fleet import Device
from broker.core.jobs import Job, read_final
from broker.core.placement import Request, decide, request_of, score
from broker.core.sharing import bytes_beside
from protocol import commands as c
from protocol import replies as r
from protocol.enums import JobState, ModelStatus, Tier
from protocol.errors import ErrorCode, Fault, Recovery, invalid
from protocol.leaving import Standing, leaving_order
from protocol.link import ModelRef
from protocol.replies import Candidate, PlannedEviction, WaitRecord
from protocol.telemetry import ModelResidency

SHOWN = 64
"""Devices in an answer."""


def explanation(job: Job, command: c.Explain, context: Context) -> r.ExplainReply:
    """Why a command went where it went; without candidates where nothing is known of it."""
    target = command.target_request_id
    target_id = job.scope + target
    live = context.jobs.live(target_id)
    decision = live.decision if live is not None else context.decisions.find(target_id)
    if decision is not None:
        return r.ExplainReply(
            request_id=job.request_id,
            action=job.action.name,
            target_request_id=target,
            message=_summary(decision),
            candidates=_candidates(decision, context),
            chosen=decision.chosen,
            evictions=[PlannedEviction(model_id=model_id, bytes=size) for model_id, size in decision.evictions],
            waits=_waits(decision, live, context.clock()),
            passes=decision.passes,
        )
    chosen = live.device_id if live is not None else _answered_by(target_id, context)
    if live is not None and not chosen:
        text = f"{live.action.name} has no device: {'it waits for the catalogue' if live.counted else 'it needs none'}"
    elif chosen:
        text = f"{chosen} was not chosen among others: the command concerns what is there"
    else:
        text = "no decision is known under this id"
    return r.ExplainReply(
        request_id=job.request_id,
        action=job.action.name,
        target_request_id=target,
        message=text,
        candidates=[],
        chosen=chosen or None,
    )


def _answered_by(target: str, context: Context) -> str:
    """The device that a stored reply names."""
    final = context.store.find(target)
    reply = read_final(final) if final is not None and not final.is_damaged else None
    return reply.device_id if isinstance(reply, r.ModelReply) else ""


def _summary(decision: Decision) -> str:
    if decision.named:
        return f"{decision.chosen}: the command names it"
    chosen = next(one for one in decision.scores if one.device.device_id == decision.chosen)
    reason = _exclusion_text(chosen)
    if reason is not None:
        return f"{decision.chosen}: every device is excluded, this one for the mildest reason: {reason}"
    where = ("on disk", "in its RAM tier", "in VRAM or on its way there")[chosen.residency]
    return f"{decision.chosen}: {chosen.total_ms:.0f} ms are the least; the model is {where}"


def _candidates(decision: Decision, context: Context) -> list[Candidate]:
    """Those that were scored, best first, then others of the fleet with the reason why they were not."""
    scored = {one.device.device_id for one in decision.scores}
    chosen = [one for one in decision.scores if one.device.device_id == decision.chosen]
    others = [one for one in decision.scores if one.device.device_id != decision.chosen]
    others.sort(key=lambda one: (one.excluded, one.total_ms))
    candidates = [_candidate(one) for one in [*chosen, *others][:SHOWN]]
    why = "the command names another device" if decision.named else None
    pool = context.fleet.devices[decision.chosen].pool
    for device in islice(context.fleet.devices.values(), SHOWN + len(scored)):
        if device.device_id not in scored and len(candidates) < SHOWN:
            reason = why or _unscored(device, alike=device.pool is pool)
            candidates.append(Candidate(device_id=device.device_id, excluded_because=reason))
    return candidates


def _unscored(device: Device, *, alike: bool) -> str:
    if not alike:
        return "it takes no models of this kind"
    if device.disabled:
        return f"it is disabled: {device.lost_because}"
    if device.drained:
        return "it is drained"
    if not device.ready:
        return "it had no ready worker"
    return "it was not among those with the model or with the least to do"


def _candidate(one: Score) -> Candidate:
    terms = {
        "residency": float(one.residency),
        "queue_ms": one.queue_ms,
        "load_ms": one.load_ms,
        "replication_ms": one.replication_ms,
        "eviction_ms": one.eviction_ms,
        "run_ms": one.run_ms,
        "in_flight": float(one.in_flight),
        "pressure": float(one.memory.critical),
        "needed_bytes": float(one.needed_bytes),
        "free_bytes": float(one.memory.free),
        "total_bytes": float(one.memory.total),
    }
    reason = _exclusion_text(one)
    return Candidate(device_id=one.device.device_id, score=one.total_ms, terms=terms, excluded_because=reason)


def _exclusion_text(one: Score) -> str | None:
    match one.excluded:
        case Exclusion.NONE:
            return None
        case Exclusion.OTHER_KIND:
            return "it takes no models of this kind"
        case Exclusion.DISABLED:
            return "it is drained" if one.device.drained else "it is disabled"
        case Exclusion.NOT_HELD:
            return "load_if_needed is false and the model is not there"
        case Exclusion.TOO_SMALL:
            return f"{one.needed_bytes} bytes are needed, and it has {one.memory.total}"
        case Exclusion.NO_ROOM:
            pinned = one.memory.pinned
            return f"{one.needed_bytes} bytes are needed, and it has {one.memory.total - pinned} beside {pinned} pinned"
        case Exclusion.NOT_READY:
            return "it has no ready worker"
        case Exclusion.PRESSURE:
            return "its memory pressure is critical: it takes no load"
    raise AssertionError(one.excluded)


def _waits(decision: Decision, live: Job | None, now: float) -> list[WaitRecord]:
    """Until it was placed, and until a worker had it; of a command that waits, until now."""
    waits = []
    if decision.placed_at > decision.arrived:
        before = (decision.placed_at - decision.arrived) * 1000.0
        waits.append(WaitRecord(reason="until it could be placed: the catalogue, or a device that was lost", ms=before))
    waiting = live is not None and live.state is JobState.QUEUED
    until = decision.started_at if decision.started_at is not None else now if waiting else None
    if until is not None and until > decision.placed_at:
        reason = f"in the queue of {decision.chosen}"
        waits.append(WaitRecord(reason=reason, ms=(until - decision.placed_at) * 1000.0))
    return waits


# plan


def plan(job: Job, command: c.Plan, context: Context) -> r.PlanReply:
    """What a load would do now; that it cannot be done is an answer too.

    Raises Fault MODEL_NOT_FOUND, INVALID_ARGUMENT, DEVICE_UNAVAILABLE.
    """
    named = context.fleet.find(command.device_id) if command.device_id not in ("", "auto") else None
    request = request_of(command, "load_model", _model(command, context))
    try:
        _, chosen = decide(request, named, context.fleet, context.estimates, context.clock())
        refusal = None
    except Fault as fault:
        if fault.code is not ErrorCode.INSUFFICIENT_MEMORY:
            raise
        chosen, refusal = _largest(request, named, context), str(fault)
    device = chosen.device
    figures = context.estimates.of(request.model, device.make)
    loads = chosen.residency != COMING or request.forced
    needed = figures.weights_bytes if loads else 0
    leaving = _leaving(device, needed + device.promised_bytes, request.model.model_id) if loads else []
    fits = refusal is None and leaving is not None
    return r.PlanReply(
        request_id=job.request_id,
        action=job.action.name,
        message=refusal or _plan_text(chosen, needed, leaving),
        device_id=chosen.device.device_id,
        model_id=request.model.model_id,
        memory_pressure=device.telemetry.memory_pressure if device.telemetry is not None else None,
        fits=fits,
        bytes_needed=needed,
        peak_bytes=max(figures.weights_bytes, figures.run_peak_bytes()),
        load_peak_bytes=figures.weights_bytes,
        run_peak_bytes=figures.run_peak_bytes(),
        step_ms=figures.step_ms(),
        evictions=leaving or [] if fits else [],
        estimated_ms=chosen.queue_ms + chosen.load_ms,
        candidates=_planned_candidates(chosen, request, named, context),
    )


def _model(command: c.Plan, context: Context) -> ModelRef:
    """The model that a load would take; one of a path must be known already, since a plan registers nothing."""
    models, path = context.catalogue.models, command.model_path
    known = models.get(command.model_id)
    if path and known is None:
        known = next((model for model in models.values() if model.path == normpath(path)), None)
        if known is None:
            parameters = {"model_path": path, **({"model_id": command.model_id} if command.model_id else {})}
            recovery = [Recovery(action="register_model", description="register it first", parameters=parameters)]
            text = f"model_path is '{path[:200]}': the catalogue has no such model, and a plan registers none"
            raise Fault(ErrorCode.MODEL_NOT_FOUND, text, recovery=recovery)
    if known is None:
        raise context.catalogue.unknown(command.model_id)
    if path and known.path != normpath(path):
        raise invalid("model_path", path, f"the path of {known.model_id}")
    if known.status is ModelStatus.Missing and not context.fleet.holders(known.model_id):
        raise Fault(ErrorCode.MODEL_NOT_FOUND, f"model_id is '{known.model_id}': its file is missing")
    return known


def _scores(devices: Sequence[Device], request: Request, context: Context) -> list[Score]:
    near = context.fleet.near(request.model.model_id)
    return score(devices, request, near, context.estimates, context.clock())


def _largest(request: Request, named: Device | None, context: Context) -> Score:
    devices = [named] if named is not None else context.fleet.pool(profiles=request.profile).devices
    scores = _scores(devices, request, context)
    return max(scores, key=lambda one: one.memory.total)


def _plan_text(chosen: Score, needed: int, leaving: list[PlannedEviction] | None) -> str:
    if not needed:
        return f"the model is on {chosen.device.device_id}, or on its way there"
    if leaving is None:
        return f"{needed} bytes do not fit {chosen.device.device_id} while its pinned models and its work stay"
    return f"{needed} bytes on {chosen.device.device_id}, {len(leaving)} models leave for it"


def _leaving(device: Device, needed_bytes: int, model_id: str) -> list[PlannedEviction] | None:
    """Who would leave so that the bytes fit, first to go first; None where that is not enough.

    Neither pinned models nor those in use; the others in the worker's own order, by what it reported last.
    """
    free = device.memory.free
    leaving: list[PlannedEviction] = []
    staying = {held.model_id for held in device.models.values() if held.tier is Tier.VRAM}
    for held in leaving_order(_evictable(device, model_id), _standing):
        if free >= needed_bytes:
            break
        staying.discard(held.model_id)
        freed = bytes_beside(held, staying)
        leaving.append(PlannedEviction(model_id=held.model_id, bytes=freed))
        free += freed
    return leaving if free >= needed_bytes or not device.memory.total else None


def _standing(held: ModelResidency) -> Standing:
    return Standing(held.priority, held.reload_ms, held.bytes, held.last_used.timestamp())


def _evictable(device: Device, model_id: str) -> Iterable[ModelResidency]:
    running = device.running.model_id if device.running is not None else ""
    for held in device.models.values():
        idle = not (held.pinned or held.sessions) and held.model_id not in (model_id, running)
        if idle and held.tier is Tier.VRAM:
            yield held


def _planned_candidates(chosen: Score, request: Request, named: Device | None, context: Context) -> list[Candidate]:
    """Every device that takes the model's kind, best first, at most `SHOWN`."""
    devices = [named] if named is not None else context.fleet.pool(profiles=request.profile).devices[:SHOWN]
    scores = _scores(devices, request, context)
    others = [one for one in scores if one.device.device_id != chosen.device.device_id]
    others.sort(key=lambda one: (one.excluded, one.total_ms))
    return [_candidate(one) for one in [chosen, *others][:SHOWN]]
