"""What fuzzing found, each kept as the input that showed it."""

from __future__ import annotations

import msgspec
import pytest

from broker.core.events import ClientMessage, SendClient, SendWorker, Tick, WorkerMessage
from broker.core.finals import MemoryStore
from broker.core.pool import HIGHEST, level_of
from protocol import link
from protocol.enums import PressureLevel, ReplyState
from protocol.errors import ErrorCode
from protocol.telemetry import DeviceMemory, MemoryPressure, Telemetry
from tests.fuzz.core import WORKERS, Target


class Quiet(Target):
    """A target whose workers answer nothing by themselves; `ask` is a client's command and what follows from it."""

    def handle(self, event: object) -> None:
        self.seen = self.core.handle(event, self.now)  # type: ignore[arg-type]

    def ask(self, **fields: object) -> None:
        self.handle(ClientMessage(b"c", (), msgspec.json.encode(fields)))

    def assigned(self) -> link.Assign:
        headers = [effect.header for effect in self.seen if isinstance(effect, SendWorker)]
        return next(header for header in headers if isinstance(header, link.Assign))

    def code(self) -> str:
        (reply,) = [msgspec.json.decode(e.frames[0]) for e in self.seen if isinstance(e, SendClient)]
        return str(reply["error"]["code"])


def test_a_header_nested_beyond_reason_is_unreadable_not_fatal() -> None:
    bomb = b"\x83\xa1t\xa4beat\xaeprogress_count\x01\xa1x" + b"\x91" * 5000 + b"\xc0"
    with pytest.raises(ValueError, match="nested"):
        link.decode_from_worker(bomb)


@pytest.mark.parametrize("pressure", [float("nan"), float("inf"), float("-inf"), 1e308])
def test_a_reading_that_is_no_number_is_survived(pressure: float) -> None:
    figures = MemoryPressure(
        level=PressureLevel.NORMAL,
        used_bytes=1,
        reclaimable_bytes=0,
        total_bytes=1 << 40,
        utilization=0.0,
        pressure=pressure,
    )
    sample = Telemetry(memory=DeviceMemory(total=1 << 40, used=1, free=1), memory_pressure=figures)
    target = Quiet(1)
    target.handle(WorkerMessage(WORKERS[0], link.Report(ready=True, telemetry=sample)))
    assert target.core.context.fleet.devices["cpu:0"].memory.total == 1 << 40


@pytest.mark.parametrize("run_ms", [float("nan"), float("inf"), 1e308, -1.0])
def test_a_measurement_that_is_none_teaches_nothing(run_ms: float) -> None:
    target = Quiet(1)
    target.ask(action="generate", model_id="m", prompt="x", request_id="first")
    assigned = target.assigned()
    worker = assigned.device_id.encode()
    progress = link.JobUpdate(request_id="first", attempt=1, state=ReplyState.PROGRESS, success=True, eta_ms=run_ms)
    target.handle(WorkerMessage(worker, progress))
    facts = link.RunFacts(run_ms=run_ms, load_ms=run_ms)
    final = link.JobUpdate(request_id="first", attempt=1, state=ReplyState.COMPLETED, success=True, facts=facts)
    target.handle(WorkerMessage(worker, final, (b"{}",)))
    assert not target.core.context.estimates.changed
    target.ask(action="generate", model_id="m", prompt="x", request_id="second")
    assert 0.0 < target.core.context.fleet.devices[target.assigned().device_id].work_ms < 1e9


@pytest.mark.parametrize("work_ms", [float("nan"), float("inf"), 1e308])
def test_work_beyond_all_bounds_stands_on_the_highest_level(work_ms: float) -> None:
    assert level_of(work_ms) == HIGHEST


@pytest.mark.parametrize("ends_by", ["deadline", "cancel"])
def test_the_registration_that_a_load_waits_for_ends_with_the_load(ends_by: str) -> None:
    target = Quiet(1)
    load = {"action": "load_model", "model_id": "new", "model_path": "/new", "request_id": "load"}
    target.ask(**load, timeout_seconds=5)
    assert target.assigned().action == "register_model"
    if ends_by == "cancel":
        target.ask(action="cancel", target_request_id="load", request_id="cancel")
    else:
        target.now += 6
        target.handle(Tick())
        assert target.code() == ErrorCode.TIMEOUT.value
    assert not len(target.core.context.jobs)
    store = target.core.context.store
    assert isinstance(store, MemoryStore)
    assert store.find("load") is not None


def test_a_registration_that_is_answered_with_garbage_fails_its_load() -> None:
    target = Quiet(1)
    target.ask(action="load_model", model_id="new", model_path="/new", request_id="load")
    assigned = target.assigned()
    update = link.JobUpdate(
        request_id=assigned.request_id, attempt=assigned.attempt, state=ReplyState.COMPLETED, success=True
    )
    target.handle(WorkerMessage(b"cat", update, (b"~",)))
    assert target.code() == ErrorCode.INTERNAL_ERROR.value
    assert not len(target.core.context.jobs)


def test_an_equal_load_that_followed_one_answered_with_garbage_fails() -> None:
    target = Quiet(1)
    target.ask(action="load_model", model_id="m", request_id="first")
    assigned = target.assigned()
    target.ask(action="load_model", model_id="m", request_id="second")
    update = link.JobUpdate(
        request_id=assigned.request_id, attempt=assigned.attempt, state=ReplyState.COMPLETED, success=True
    )
    target.handle(WorkerMessage(assigned.device_id.encode(), update, (b"~",)))
    first, second = [effect.frames[0] for effect in target.seen if isinstance(effect, SendClient)]
    assert first == b"~"
    assert msgspec.json.decode(second)["error"]["code"] == ErrorCode.INTERNAL_ERROR.value
