"""One run: a world, hours of storm, a calm in which everything must come to rest, and the verdict."""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from tests.simulation.storms import Storm
from tests.simulation.world import LATE_SECONDS, World

CALM_SECONDS = 900.0
LOOK_SECONDS = 60.0


class Shape(Struct, frozen=True, kw_only=True):
    """What a run is made of; commands and faults by the hour."""

    devices: int = 4
    clients: int = 4
    models: int = 4
    hours: float = 1.0
    commands: int = 300
    faults: int = 30


STORMY = Shape(devices=4, hours=0.25, commands=1200, faults=400)
"""Many faults at once, as a planted bug may need them."""


class Result(Struct, frozen=True, kw_only=True):
    """What came of a run."""

    seed: int
    hours: float
    commands: int
    succeeded: int
    events: int
    deaths: int
    broker_deaths: int
    faults: dict[str, int]
    broken: list[str]


def simulate(seed: int, shape: Shape) -> Result:
    """A whole run; never raises for what it finds."""
    world = World(seed, devices=shape.devices, clients=shape.clients, models=shape.models)
    storm = Storm(
        world,
        shape.hours * 3600,
        commands=int(shape.commands * shape.hours),
        faults=int(shape.faults * shape.hours),
    )
    _watched(world, shape.hours * 3600)
    world.stuck_share = world.poison_share = 0.0
    _watched(world, CALM_SECONDS)
    if not world.ledger.broken:
        world.ledger.check_end(world.now)
        _check_rest(world)
    finals = Counter(entry.finals[-1][1] for entry in world.ledger.entries.values() if entry.finals)
    return Result(
        seed=seed,
        hours=shape.hours,
        commands=len(world.ledger.entries),
        succeeded=finals["ok"],
        events=world.events,
        deaths=world.supervisor.deaths,
        broker_deaths=world.supervisor.broker_deaths,
        faults=dict(storm.faults),
        broken=world.ledger.broken[:5],
    )


def shape_of(seed: int) -> Shape:
    return Shape(devices=2 + seed % 15, hours=0.25, commands=600, faults=60)


def run(seed: int) -> Result:
    return simulate(seed, shape_of(seed))


def run_or_storm(seed: int) -> Result:
    """Every fourth seed is a storm of faults."""
    return run(seed) if seed % 4 else simulate(seed, STORMY)


def _watched(world: World, seconds: float) -> None:
    """Let time pass, with a look at what is late every minute."""
    end = world.now + seconds
    while world.now < end and not world.ledger.broken:
        world.run(min(LOOK_SECONDS, end - world.now))
        if world.core is not None and not world.frozen:
            world.ledger.check_late(world.now, world.up_since, LATE_SECONDS)


def _check_rest(world: World) -> None:
    """At rest nothing is left over: no job, no credit lent, every device back."""
    core = world.core
    if core is None:
        world.fail("there is no broker")
        return
    left = [job.request_id for job in core.context.jobs]
    if left or core.context.jobs.queued_total:
        world.fail(f"jobs are left over: {left}, {core.context.jobs.queued_total} counted as queued")
    for device in core.context.fleet.devices.values():
        if device.running is not None or len(device.queue) or device.control:
            world.fail(f"{device.device_id} has work left over")
        if not device.connected or not device.ready:
            world.fail(f"{device.device_id} did not come back")
    if world.store.unfinished():
        world.fail(f"accepted and never ended: {[a.request_id for a in world.store.unfinished()]}")
