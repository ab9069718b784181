"""A random walk with a ledger: whatever happens, every command ends with exactly one final reply."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import msgspec
import pytest
from room import CATALOG, Room, model, residency, sent, worker_of

from broker.core.events import Effect, SendWorker, WorkerMessage
from broker.core.retries import MOST_RETRIES
from protocol.actions import ACTIONS
from protocol.errors import ErrorCode
from protocol.link import CATALOG_ID, Assign, Beat, CancelJob, CatalogEntries, Register
from protocol.replies import Limits
from protocol.supervision import ChildExited

DEVICES = ("cpu:0", "cpu:1", "cpu:2")
MODELS = ("m", "n", "o", "unknown")
STEPS = 1500


class Walk:
    """Clients that send, workers that answer, die, fall silent and return, and what each command's end was."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.room = Room(DEVICES, limits=Limits(queued_per_client=12, queued_per_device=8), silence_ms=4000)
        self.room.entries(*map(model, MODELS[:3]), complete=True)
        self.sent: dict[str, bytes] = {}
        self.actions: dict[str, str] = {}
        self.finals: Counter[str] = Counter()
        self.accepted: set[str] = set()
        self.executed: Counter[str] = Counter()
        self.work: dict[bytes, list[SendWorker]] = {}
        self.generations = dict.fromkeys(DEVICES, 1)
        self.catalogues = 1

    def see(self, effects: list[Effect]) -> None:
        for effect in sent(effects):
            reply = msgspec.json.decode(effect.frames[0])
            assert effect.client == self.sent[reply["request_id"]]
            if reply["state"] == "accepted":
                self.accepted.add(reply["request_id"])
            else:
                self.finals[reply["request_id"]] += 1
        for effect in effects:
            if not isinstance(effect, SendWorker):
                continue
            if isinstance(effect.header, Assign):
                self.executed[effect.header.request_id] += 1
                self.work.setdefault(effect.worker, []).append(effect)
            elif isinstance(effect.header, CancelJob) and self.random.random() < 0.7:
                self.answer(effect.worker, effect.header.request_id, effect.header.code)

    def send(self) -> None:
        pick = self.random.choice
        request_id, client = f"r{len(self.sent)}", pick((b"a", b"b", b"c"))
        self.sent[request_id] = client
        fields: dict[str, Any] = {"model_id": pick(MODELS), "device_id": pick(("", "", "auto", *DEVICES, "cpu:9"))}
        action = pick(
            ("generate", "generate", "load_model", "unload_model", "pin_model", "list_models", "cancel", "ping")
        )
        self.actions[request_id] = action
        match action:
            case "generate":
                fields["prompt"] = "x"
            case "unload_model":
                fields["force"] = self.random.random() < 0.3
            case "cancel":
                fields = {"target_request_id": pick(list(self.sent))}
            case "list_models" | "ping":
                fields = {}
        if self.random.random() < 0.2 and action not in ("cancel", "ping", "pin_model"):
            fields["wait_for_completion"] = False
        fields["timeout_seconds"] = pick((0, 1, 5, 60))
        fields["priority"] = pick(("Low", "Normal", "High", "Critical"))
        self.see(self.room.send(action, client, request_id=request_id, **fields))

    def answer(self, worker: bytes, request_id: str | None = None, code: ErrorCode | None = None) -> None:
        work = [w for w in self.work.get(worker, []) if request_id in (None, w.header.request_id)]  # type: ignore[attr-defined]
        if work:
            chosen = self.random.choice(work)
            self.work[worker].remove(chosen)
            self.see(self.room.finish(chosen, code=code))

    def die(self) -> None:
        device = self.random.choice(DEVICES)
        generation = self.generations[device]
        self.work.pop(worker_of(device, generation), None)
        self.see(self.room.handle(ChildExited(child=device, generation=generation, reason="killed")))
        self.generations[device] += 1

    def come(self) -> None:
        device = self.random.choice(DEVICES)
        before = len(self.room.effects)
        self.room.register(device, self.generations[device])
        held = [residency(name) for name in MODELS[:3] if self.random.random() < 0.4]
        self.room.holds(device, *held)
        self.see(self.room.effects[before:])

    def lose_catalog(self) -> None:
        self.work.pop(CATALOG, None)
        self.see(self.room.handle(ChildExited(child=CATALOG_ID, generation=self.catalogues, reason="killed")))
        self.catalogues += 1
        header = Register(worker_id="catalog", generation=self.catalogues, pid=1)
        self.see(self.room.handle(WorkerMessage(CATALOG, header)))
        entries = CatalogEntries(entries=list(map(model, MODELS[:3])), complete=True)
        self.see(self.room.handle(WorkerMessage(CATALOG, entries)))

    def beat(self) -> None:
        for device in DEVICES:
            worker = self.room.core.context.fleet.devices[device].worker
            if worker is not None and self.random.random() < 0.9:
                self.see(self.room.handle(WorkerMessage(worker, Beat(progress_count=1))))

    def step(self) -> None:
        draw = self.random.random()
        if draw < 0.45:
            self.send()
        elif draw < 0.8:
            self.answer(self.random.choice([*self.work] or [b""]))
        elif draw < 0.82:
            self.die()
        elif draw < 0.86:
            self.come()
        elif draw < 0.865:
            self.lose_catalog()
        else:
            self.beat()
            self.see(self.room.wait(self.random.random()))


@pytest.mark.parametrize("seed", range(6))
def test_every_command_ends_with_exactly_one_final_reply_and_runs_as_often_as_it_may(seed: int) -> None:
    walk = Walk(seed)
    for _ in range(STEPS):
        walk.step()
        assert all(device.running is None or device.worker for device in walk.room.core.context.fleet.devices.values())
    walk.see(walk.room.wait(700))
    once = [request_id for request_id in walk.sent if walk.finals[request_id] + (request_id in walk.accepted) != 1]
    assert once == []
    for request_id, count in walk.executed.items():
        action = ACTIONS[walk.actions.get(request_id, "unload_model")]
        is_part = " " in request_id
        assert count <= (1 + MOST_RETRIES if action.idempotent and not is_part else 1), (request_id, action.name)
    assert len(walk.room.core.context.jobs) == 0
    assert walk.room.core.context.jobs.queued_total == 0
    assert walk.accepted
