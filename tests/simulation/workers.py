"""Simulated processes of the fleet: they keep the link's rules as real workers do, and take simulated time.

A device's worker runs one command at a time, keeps outcomes until the next assignment shows that they came through, and
registers anew when another epoch greets it. It can be stopped, stuck, or killed at any moment.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from broker.core.events import WorkerMessage
from protocol import link
from protocol.codec import encode_reply
from protocol.enums import DeviceKind, Lane, ReplyState, Tier
from protocol.errors import ErrorCode
from protocol.telemetry import DeviceIdentity
from tests.broker.room import VRAM, failure_of, residency, success_of, telemetry
from tests.simulation.wire import Pipe

if TYPE_CHECKING:
    from tests.simulation.world import World

BEAT_SECONDS = 4.0
MODELS_HELD = 2
Attempt = tuple[str, int]


class Process:
    """What a worker and the catalogue have in common: two pipes, a life, an epoch, the outcomes not yet confirmed."""

    def __init__(self, world: World, child: str, generation: int) -> None:
        self.world, self.child, self.generation = world, child, generation
        self.random: Random = world.random
        self.worker_id = f"{child}/{generation}/{world.random.getrandbits(16):04x}"
        self.alive = True
        self.stopped = False
        self.epoch: str | None = None
        self.jobs: dict[Attempt, tuple[link.Assign, list[bytes]]] = {}
        self.unconfirmed: dict[Attempt, tuple[link.Assign, list[bytes], WorkerMessage]] = {}
        self.inbound = Pipe(world.agenda, world.random, self.receive)
        self.outbound = Pipe(world.agenda, world.random, world.from_worker)
        self._late: list[Any] = []

    def send(self, header: link.FromWorker, *body: bytes) -> WorkerMessage:
        message = WorkerMessage(self.worker_id.encode(), header, body)
        self.outbound.send(message)
        return message

    def when_running(self, seconds: float, call: Any) -> None:
        """Do something later, unless dead then; while stopped, it waits."""

        def fire() -> None:
            if self.alive and self.stopped:
                self._late.append(call)
            elif self.alive:
                call()

        self.world.agenda.after(seconds, fire)

    def kill(self) -> None:
        self.alive = False
        self.inbound.close()
        self.outbound.close(arriving=True)

    def stop(self) -> None:
        self.stopped = True
        self.inbound.hold()

    def cont(self) -> None:
        if self.alive and self.stopped:
            self.stopped = False
            self.inbound.resume()
            late, self._late = self._late, []
            for call in late:
                call()

    def start(self) -> None:
        self.register()
        self.beat()

    def beat(self) -> None:
        self.send(link.Beat(progress_count=self.progress()))
        self.when_running(BEAT_SECONDS * self.random.uniform(0.9, 1.1), self.beat)

    def progress(self) -> int:
        return 0

    def register(self) -> None:
        raise NotImplementedError

    def receive(self, message: link.Message | tuple[link.Assign, tuple[bytes, ...]]) -> None:
        if not self.alive:
            return
        if isinstance(message, tuple):
            self.assign(*message)
            return
        match message:
            case link.Welcome(epoch=epoch):
                self.welcome(epoch)
            case link.CancelJob():
                self.cancel(message)
            case link.Stop():
                self.world.supervisor.exited_by_itself(self)
            case _:
                pass

    def welcome(self, epoch: str) -> None:
        known, self.epoch = self.epoch, epoch
        if known is not None and known != epoch:
            self.register()
        if known != epoch:
            self.report()
        if known is not None and known != epoch:
            for _, _, parcel in self.unconfirmed.values():
                self.outbound.send(parcel)

    def report(self) -> None:
        """Tell what is held."""

    def assign(self, assign: link.Assign, body: tuple[bytes, ...]) -> None:
        raise NotImplementedError

    def cancel(self, message: link.CancelJob) -> None:
        """Told to stop; the catalogue does not."""

    def holding(self) -> list[link.Holding]:
        held = [(a, b, False) for a, b in self.jobs.values()]
        held += [(a, b, True) for a, b, _ in self.unconfirmed.values()]
        return [link.Holding(assign=a, body=b, ended=ended) for a, b, ended in held]

    def answer(self, assign: link.Assign, code: ErrorCode | None) -> WorkerMessage:
        reply = success_of(assign) if code is None else failure_of(assign, code)
        update = link.JobUpdate(
            request_id=assign.request_id,
            attempt=assign.attempt,
            state=reply.state,
            success=reply.success,
            error_code=code,
        )
        return self.send(update, encode_reply(reply, assign.spelling))


class DeviceWorker(Process):
    """A worker of one device. `held` are its models, the oldest first."""

    def __init__(self, world: World, child: str, generation: int) -> None:
        super().__init__(world, child, generation)
        self.ready = False
        self.held: dict[str, Tier] = {}
        self.advances = 0
        self.stuck = False
        self.cancelled: dict[Attempt, ErrorCode] = {}

    def start(self) -> None:
        super().start()
        self.when_running(self.random.uniform(0.2, 3.0), self._become_ready)

    def _become_ready(self) -> None:
        self.ready = True
        self.report()

    def progress(self) -> int:
        if not self.stuck:
            self.advances += 1
        return self.advances

    def register(self) -> None:
        kind = DeviceKind(self.child.partition(":")[0])
        identity = DeviceIdentity(device_id=self.child, uuid=self.child, name=self.child, kind=kind, total_vram=VRAM)
        self.send(
            link.Register(
                worker_id=self.worker_id,
                generation=self.generation,
                pid=1,
                device=identity,
                ready=self.ready,
                holding=self.holding(),
            )
        )

    def report(self) -> None:
        models = [residency(name, tier) for name, tier in self.held.items()]
        self.send(link.Report(ready=self.ready, telemetry=telemetry(), models=models))

    def assign(self, assign: link.Assign, body: tuple[bytes, ...]) -> None:
        attempt = (assign.request_id, assign.attempt)
        if attempt in self.jobs:
            return
        self.world.ledger.begun(assign.request_id, self.world.now)
        if assign.lane is Lane.CONTROL:
            self.answer(assign, None)
            return
        if self.jobs:
            busy = next(iter(self.jobs))[0]
            self.world.fail(f"{self.child} was given {assign.request_id} while it ran {busy}")
        self.unconfirmed.clear()
        self.jobs[attempt] = (assign, list(body))
        if self.world.poison in body[0] and self.random.random() < 0.8:
            self.when_running(0.1, lambda: self.world.supervisor.kill(self, "it was poisoned"))
        elif self.random.random() < self.world.stuck_share:
            self.stuck = True
        else:
            self.when_running(self._duration(assign), lambda: self._end(attempt))

    def _duration(self, assign: link.Assign) -> float:
        name = assign.model.model_id if assign.model else ""
        seconds = 0.0 if self.held.get(name) is Tier.VRAM else self.random.uniform(1.0, 6.0)
        if assign.action == "generate":
            seconds += self.random.expovariate(1 / 3.0)
            steps = self.random.randint(0, 3)
            for step in range(steps):
                self.when_running(seconds * step / 4, lambda s=step: self._advance(assign, s))
        return seconds + 0.01

    def _advance(self, assign: link.Assign, step: int) -> None:
        if (assign.request_id, assign.attempt) in self.jobs:
            self.send(
                link.JobUpdate(
                    request_id=assign.request_id,
                    attempt=assign.attempt,
                    state=ReplyState.PROGRESS,
                    success=True,
                    step=step,
                    steps=4,
                    eta_ms=100.0,
                )
            )

    def _end(self, attempt: Attempt, code: ErrorCode | None = None) -> None:
        held = self.jobs.pop(attempt, None)
        if held is None:
            return
        assign, body = held
        name = assign.model.model_id if assign.model else ""
        if code is None and self.random.random() < 0.03:
            code = ErrorCode.INSUFFICIENT_MEMORY
        if code is None:
            self._moved(assign.action, name)
        self.report()
        self.unconfirmed[attempt] = (assign, body, self.answer(assign, code))

    def _moved(self, action: str, name: str) -> None:
        """What a command did to the models held."""
        self.held.pop(name, None)
        if action == "unload_model":
            return
        self.held[name] = Tier.VRAM
        in_vram = [model for model, tier in self.held.items() if tier is Tier.VRAM]
        for victim in in_vram[:-MODELS_HELD]:
            self.held[victim] = Tier.RAM

    def cancel(self, message: link.CancelJob) -> None:
        attempt = (message.request_id, message.attempt)
        if attempt in self.jobs and not self.stuck:
            self.when_running(self.random.expovariate(1 / 0.8), lambda: self._end(attempt, message.code))


class CatalogWorker(Process):
    """The catalogue: a few models, slow now and then."""

    def start(self) -> None:
        super().start()
        self.when_running(self.random.uniform(0.05, 1.0), self._list)

    def _list(self) -> None:
        self.send(link.CatalogEntries(entries=self.world.models, complete=True))

    def register(self) -> None:
        self.send(link.Register(worker_id=self.worker_id, generation=self.generation, pid=2, holding=self.holding()))

    def report(self) -> None:
        self._list()

    def assign(self, assign: link.Assign, body: tuple[bytes, ...]) -> None:
        self.world.ledger.begun(assign.request_id, self.world.now)
        self.jobs[(assign.request_id, assign.attempt)] = (assign, list(body))
        self.when_running(self.random.expovariate(1 / 0.05), lambda: self._end(assign))

    def _end(self, assign: link.Assign) -> None:
        if self.jobs.pop((assign.request_id, assign.attempt), None) is not None:
            self.answer(assign, None)
