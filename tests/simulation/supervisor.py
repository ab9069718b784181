"""The simulated supervisor: starts, kills and restarts workers and the broker, and tells the broker of it over a
pipe that loses nothing while the broker lives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from protocol.link import CATALOG_ID
from protocol.supervision import ChildExited, ChildStarted, DrainChild, FromBroker, KillChild, RestartChild
from tests.simulation.wire import Pipe
from tests.simulation.workers import CatalogWorker, DeviceWorker, Process

if TYPE_CHECKING:
    from tests.simulation.world import World


class Supervisor:
    """Owns the processes. `by_id` finds them by the routing id of their link, the dead ones too."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.children: dict[str, Process] = {}
        self.generations: dict[str, int] = {}
        self.by_id: dict[str, Process] = {}
        self.drained: set[str] = set()
        self.deaths = 0
        self.broker_deaths = 0
        self._line = Pipe(world.agenda, world.random, world.handle)

    def start(self) -> None:
        for child in (*self._world.devices, CATALOG_ID):
            self._start(child)

    def _start(self, child: str) -> None:
        generation = self.generations.get(child, 0) + 1
        self.generations[child] = generation
        kind = CatalogWorker if child == CATALOG_ID else DeviceWorker
        process = kind(self._world, child, generation)
        self.children[child] = self.by_id[process.worker_id] = process
        if self._world.core is None:
            process.inbound.hold()
            process.outbound.hold()
        self._line.send(ChildStarted(child=child, generation=generation, pid=1, restarts=generation - 1))
        process.start()

    def kill(self, process: Process, reason: str) -> None:
        """The process is dead; the broker learns of it, and another follows."""
        if not process.alive:
            return
        self.deaths += 1
        process.kill()
        world = self._world
        line = ChildExited(child=process.child, generation=process.generation, reason=reason)
        world.agenda.after(world.random.uniform(0.0, 0.1), lambda: self._line.send(line))
        world.agenda.after(world.random.uniform(0.15, 1.5), lambda: self._start(process.child))

    def exited_by_itself(self, process: Process) -> None:
        self.kill(process, "it stopped")

    def tell(self, line: FromBroker) -> None:
        """What the broker wants done."""
        match line:
            case KillChild() | RestartChild():
                process = self.children.get(line.child)
                if process is not None and process.generation == line.generation:
                    self._world.agenda.after(0.01, lambda: self.kill(process, line.reason))
            case DrainChild(child=child, drained=drained):
                (self.drained.add if drained else self.drained.discard)(child)
            case _:
                pass

    # the broker

    def broker_died(self) -> None:
        """Links break; what was on its way is lost; a new broker follows within two seconds."""
        world = self._world
        self.broker_deaths += 1
        self._line.close()
        self._line = Pipe(world.agenda, world.random, world.handle)
        self._line.hold()
        for process in self.children.values():
            if process.alive:
                process.inbound.close()
                process.outbound.close()
                process.inbound = Pipe(world.agenda, world.random, process.receive)
                process.outbound = Pipe(world.agenda, world.random, world.from_worker)
                if process.stopped:
                    process.inbound.hold()
                process.outbound.hold()
        for client in world.clients.values():
            client.outbound.hold()
        world.agenda.after(world.random.uniform(0.2, 2.0), self._restart_broker)

    def _restart_broker(self) -> None:
        world = self._world
        survivors = [name for name in world.devices if self.children[name].alive]
        self._line.close()
        self._line = Pipe(world.agenda, world.random, world.handle)
        world.start_broker(survivors)
        for child, process in self.children.items():
            if process.alive:
                restarts = process.generation - 1
                started = ChildStarted(child=child, generation=process.generation, pid=1, restarts=restarts)
                self._line.send(started)
                process.outbound.resume()
                if not process.stopped:
                    process.inbound.resume()
        for client in world.clients.values():
            client.outbound.resume()
