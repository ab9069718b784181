"""What goes wrong, when: load that comes and goes, and faults drawn from the world's seed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from protocol.link import CATALOG_ID
from tests.simulation.ledger import Entry

if TYPE_CHECKING:
    from tests.simulation.workers import Process
    from tests.simulation.world import World


class Storm:
    """Traffic and faults over a stretch of time. `faults` counts what was done."""

    def __init__(self, world: World, seconds: float, *, commands: int, faults: int) -> None:
        self.world = world
        self.faults: Counter[str] = Counter()
        for _ in range(commands):
            client = world.random.choice(list(world.clients.values()))
            world.agenda.after(self._moment(seconds), client.send_new)
        for _ in range(faults):
            kind = world.random.choice(list(FAULTS))
            world.agenda.after(world.random.uniform(0.0, seconds), lambda k=kind: self._do(k))  # type: ignore[misc]

    def _moment(self, seconds: float) -> float:
        """Half of the commands come in bursts, so that queues fill and empty."""
        random = self.world.random
        if random.random() < 0.5:
            return random.uniform(0.0, seconds)
        burst = random.randrange(max(1, int(seconds / 300)))
        return min(seconds, burst * 300 + random.expovariate(1 / 5.0))

    def _do(self, kind: str) -> None:
        self.faults[kind] += 1
        FAULTS[kind](self.world)


def _some(world: World) -> Process | None:
    alive = [world.supervisor.children[name] for name in world.devices]
    alive = [process for process in alive if process.alive]
    return world.random.choice(alive) if alive else None


def kill_worker(world: World) -> None:
    process = _some(world)
    if process is not None:
        world.supervisor.kill(process, "ended by SIGKILL")


def stop_worker(world: World) -> None:
    """SIGSTOP, for less or more than its silence is borne."""
    process = _some(world)
    if process is not None:
        process.stop()
        world.agenda.after(world.random.choice((1.0, 8.0, 40.0)), process.cont)


def cut_worker(world: World) -> None:
    """Its link carries nothing for a while, in one direction or both."""
    process = _some(world)
    if process is None or process.stopped:
        return
    pipes = world.random.choice(([process.inbound], [process.outbound], [process.inbound, process.outbound]))
    for pipe in pipes:
        pipe.hold()
    seconds = world.random.choice((2.0, 10.0, 30.0))
    world.agenda.after(seconds, lambda: [pipe.resume() for pipe in pipes] if not process.stopped else None)


def kill_broker(world: World) -> None:
    if world.core is not None:
        world.kill_broker()


def kill_broker_mid_step(world: World) -> None:
    world.kill_broker_mid_step(world.random.randint(1, 40))


def freeze_broker(world: World) -> None:
    world.freeze_broker(world.random.choice((1.0, 5.0, 25.0)))


def kill_catalogue(world: World) -> None:
    world.supervisor.kill(world.supervisor.children[CATALOG_ID], "ended by SIGKILL")


def jump_wall_clock(world: World) -> None:
    world.wall_offset += world.random.choice((-86_400.0, -3600.0, -1.0, 1.0, 3600.0, 86_400.0))


def kill_many(world: World) -> None:
    """A power cut to half the devices."""
    for name in world.devices[: max(1, len(world.devices) // 2)]:
        world.supervisor.kill(world.supervisor.children[name], "ended by SIGKILL")


def administer(world: World) -> None:
    """An operator drains a device for a while, or replaces its worker."""
    device = world.random.choice(world.devices)
    if world.random.random() < 0.5:
        _admin(world, {"action": "restart_worker", "device_id": device})
        return
    _admin(world, {"action": "drain_device", "device_id": device})
    world.agenda.after(20.0, lambda: _insist(world, device))


def _insist(world: World, device: str) -> None:
    _admin(world, {"action": "resume_device", "device_id": device})
    if device in world.supervisor.drained or world.core is None:
        world.agenda.after(5.0, lambda: _insist(world, device))


def _admin(world: World, payload: dict[str, object]) -> None:
    client = next(iter(world.clients.values()))
    request_id = f"admin-{world.agenda.now:.6f}-{world.random.getrandbits(30)}"
    entry = Entry(request_id, client.name, {"request_id": request_id, **payload}, world.now)
    world.ledger.sent(entry)
    client.ask(entry)


FAULTS = {
    call.__name__: call
    for call in (
        kill_worker,
        stop_worker,
        cut_worker,
        kill_broker,
        kill_broker_mid_step,
        freeze_broker,
        kill_catalogue,
        jump_wall_clock,
        kill_many,
        administer,
    )
}
