"""A machine in simulated time: clients, one broker's core after the other over one store, workers, their supervisor.

Everything that chance decides comes from one seed: a run is repeated exactly by naming it.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import msgspec

from broker.core.core import Core
from broker.core.events import (
    ClientMessage,
    CoreEvent,
    Effect,
    Exit,
    Log,
    Remember,
    SendClient,
    SendWorker,
    TellSupervisor,
    Tick,
    WorkerMessage,
    WorkerUnreachable,
)
from broker.core.finals import Accepted, Final, MemoryStore
from protocol.enums import DeviceKind
from protocol.link import Assign
from protocol.replies import Limits
from protocol.supervision import BrokerSpec, DeviceSlot, ProgressBudgets
from tests.broker.room import model
from tests.simulation.agenda import Agenda
from tests.simulation.clients import Client
from tests.simulation.ledger import Ledger
from tests.simulation.supervisor import Supervisor

START = datetime(2026, 1, 1, tzinfo=UTC)
SILENCE_MS = 15_000
BUDGET_SECONDS = 60.0
LATE_SECONDS = 120.0
"""What a stuck or silent worker may add to a command's end: silence, the stuck budget, the kill, the restart."""


class SimulatedJournal(MemoryStore):
    """The store as the journal keeps it: it outlives brokers, and knows how old what was accepted is."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._since: dict[str, float] = {}

    def keep(self, final: Final) -> None:
        super().keep(final)
        self._world.ledger.kept(final.request_id, self._world.now)

    def accept(self, accepted: Accepted) -> None:
        self._since.setdefault(accepted.request_id, self._world.now - accepted.age_seconds)
        super().accept(accepted)

    def unfinished(self) -> list[Accepted]:
        now = self._world.now
        return [msgspec.structs.replace(a, age_seconds=now - self._since[a.request_id]) for a in super().unfinished()]


class World:
    """Everybody, and the time."""

    def __init__(
        self,
        seed: int,
        *,
        devices: int = 4,
        clients: int = 4,
        models: int = 4,
        poison_share: float = 0.01,
        stuck_share: float = 0.003,
    ) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.agenda = Agenda(1000.0)
        self.ledger = Ledger()
        self.poison = b"poison"
        self.poison_share, self.stuck_share = poison_share, stuck_share
        self.devices = [f"virtual:{index}" for index in range(devices)]
        self.models = [model(f"m{index}") for index in range(models)]
        self.store = SimulatedJournal(self)
        self.remembered = b""
        self.wall_offset = 0.0
        self.epoch = 0
        self.core: Core | None = None
        self.up_since = self.now
        self.frozen = False
        self.exited = False
        self._dies_in = -1
        self._backlog: list[CoreEvent] = []
        self._ids = 0
        self.events = 0
        self.clients = {f"c{index}".encode(): Client(self, f"c{index}".encode()) for index in range(clients)}
        self.supervisor = Supervisor(self)
        self.start_broker([])
        self.supervisor.start()

    @property
    def now(self) -> float:
        return self.agenda.now

    def fail(self, text: str) -> None:
        self.ledger.fail(self.now, text)

    # time

    def run(self, seconds: float) -> None:
        """Let time pass. Stops early once a promise is broken."""
        end = self.now + seconds
        agenda = self.agenda
        while not self.ledger.broken:
            due = float("inf")
            if self.core is not None and not self.frozen:
                due = self.core.next_at() or due
            if min(due, agenda.next_at()) > end:
                agenda.now = end
                return
            if due <= agenda.next_at():
                agenda.now = max(agenda.now, due)
                self.handle(Tick())
            else:
                agenda.step()

    # the broker

    def start_broker(self, survivors: list[str]) -> None:
        """A new process over the same journal."""
        self.epoch += 1
        slots = [
            DeviceSlot(device_id=name, kind=DeviceKind.VIRTUAL, drained=name in self.supervisor.drained)
            if hasattr(self, "supervisor")
            else DeviceSlot(device_id=name, kind=DeviceKind.VIRTUAL)
            for name in self.devices
        ]
        budgets = dict.fromkeys(ProgressBudgets.__struct_fields__, BUDGET_SECONDS)
        spec = BrokerSpec(
            commands="",
            events="",
            link="",
            devices=slots,
            limits=Limits(queued_per_client=12, queued_per_device=16),
            silence_ms=SILENCE_MS,
            progress=ProgressBudgets(**budgets),
            admin=True,
            survivors=survivors,
            version="0",
        )
        self.core = Core(
            spec,
            f"epoch-{self.epoch}",
            clock=lambda: self.now,
            wall=lambda: START + timedelta(seconds=self.now + self.wall_offset),
            new_id=self._new_id,
            store=self.store,
            remembered=self.remembered,
        )
        self.up_since = self.now
        self.frozen = False

    def _new_id(self) -> str:
        self._ids += 1
        return f"id-{self._ids}"

    def kill_broker(self) -> None:
        """SIGKILL: its memory is gone, and all that was on its way to it or from it."""
        self.core = None
        self.frozen = False
        self._backlog.clear()
        self.ledger.broker_died()
        for client in self.clients.values():
            client.reconnect()
        self.supervisor.broker_died()

    def kill_broker_mid_step(self, events: int) -> None:
        """SIGKILL between what a step wrote down and what it would have sent."""
        self._dies_in = events

    def freeze_broker(self, seconds: float) -> None:
        """SIGSTOP for a while: nothing is read, no timer fires."""
        if self.core is None or self.frozen:
            return
        self.frozen, epoch = True, self.epoch
        self.agenda.after(seconds, lambda: self._thaw(epoch))

    def _thaw(self, epoch: int) -> None:
        if epoch != self.epoch or self.core is None:
            return
        self.frozen = False
        self.up_since = self.now
        backlog, self._backlog = self._backlog, []
        for event in backlog:
            if self.core is not None:
                self.handle(event)

    def handle(self, event: CoreEvent) -> None:
        """One event to the core, and what it wants done."""
        if self.core is None:
            return
        if self.frozen:
            self._backlog.append(event)
            return
        self.events += 1
        if isinstance(event, ClientMessage):
            request_id = msgspec.json.decode(event.payload)["request_id"]
            self.ledger.received(request_id, self.epoch, self.now)
        effects = self.core.handle(event, self.now)
        if not isinstance(event, Tick):
            self._dies_in -= 1
            if self._dies_in == 0:
                self._carry_out(effects[: self.random.randint(0, len(effects))])
                self.kill_broker()
                return
        self._carry_out(effects)

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendClient():
                    self._to_client(effect)
                case SendWorker():
                    self._to_worker(effect)
                case TellSupervisor():
                    self.supervisor.tell(effect.line)
                case Remember():
                    self.remembered = effect.data
                case Exit():
                    self.exited = True
                case Log(event="incident"):
                    self.fail(f"the core failed: {effect.fields['trace']}")
                case _:
                    pass

    def _to_client(self, effect: SendClient) -> None:
        reply: dict[str, Any] = msgspec.json.decode(effect.frames[0])
        self.ledger.emitted(reply["request_id"], effect.client, reply, self.now)
        self.clients[effect.client].inbound.send(effect.frames)

    def _to_worker(self, effect: SendWorker) -> None:
        header = effect.header
        process = self.supervisor.by_id.get(effect.worker.decode())
        message = (header, effect.body) if isinstance(header, Assign) else header
        if process is None or not process.alive or not process.inbound.send(message):
            self.handle(WorkerUnreachable(effect.worker))
        elif isinstance(header, Assign):
            self.ledger.assigned(header.request_id, self.epoch, header.attempt, self.now)

    # what arrives

    def from_client(self, message: ClientMessage) -> None:
        self.handle(message)

    def from_worker(self, message: WorkerMessage) -> None:
        self.handle(message)
