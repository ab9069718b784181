"""Credit, priority, fairness, forced unloads, limits: who goes next on a device."""

from __future__ import annotations

from typing import Any

import pytest
from room import Room, answer, assigned, cancels, code, ids, replies, residency

from broker.core.events import SendWorker, WorkerMessage
from protocol.enums import ReplyState
from protocol.errors import ErrorCode
from protocol.link import JobUpdate
from protocol.replies import Limits


def draw(room: Room, request_id: str, client: bytes = b"c1", **fields: Any) -> list[Any]:
    command = {"model_id": "m", "prompt": "x", "device_id": "cpu:0", **fields}
    return room.send("generate", client, request_id=request_id, **command)


def run_all(room: Room, first: SendWorker) -> list[str]:
    """Finish what runs until nothing is left; the request ids in the order in which they ran."""
    order, current = [], [first]
    while current:
        order.append(current[0].header.request_id)  # type: ignore[attr-defined]
        current = assigned(room.finish(current[0]))
    return order


def test_a_device_has_one_command_at_a_time() -> None:
    room = Room()
    (first,) = assigned(draw(room, "a"))
    assert assigned(draw(room, "b")) == []
    assert ids(room.finish(first)) == ["b"]


def test_devices_work_beside_each_other() -> None:
    room = Room()
    assert ids(draw(room, "a")) == ["a"]
    assert ids(draw(room, "b", device_id="cpu:1")) == ["b"]


def test_higher_priority_goes_first_and_equals_in_order() -> None:
    room = Room()
    (first,) = assigned(draw(room, "first"))
    for name, priority in (("low", "Low"), ("n1", "Normal"), ("high", "High"), ("crit", "Critical"), ("n2", "Normal")):
        draw(room, name, priority=priority)
    assert run_all(room, first) == ["first", "crit", "high", "n1", "n2", "low"]


def test_clients_take_turns_however_many_commands_one_of_them_sent() -> None:
    room = Room()
    (first,) = assigned(draw(room, "first", b"greedy"))
    for number in range(4):
        draw(room, f"g{number}", b"greedy")
    for number in range(2):
        draw(room, f"m{number}", b"modest")
    assert run_all(room, first) == ["first", "g0", "m0", "g1", "m1", "g2", "g3"]


def test_position_in_get_result_is_the_true_order() -> None:
    room = Room()
    (first,) = assigned(draw(room, "first", b"greedy"))
    for client, names in ((b"greedy", ("g0", "g1", "g2")), (b"modest", ("m0", "m1"))):
        for name in names:
            draw(room, name, client, priority="High" if name == "m1" else "Normal")
    positions = {}
    for name in ("g0", "g1", "g2", "m0", "m1"):
        positions[name] = room.ask("get_result", target_request_id=name)["position"]
    assert run_all(room, first)[1:] == sorted(positions, key=lambda name: positions[name])


def test_forced_unload_cancels_what_runs_and_goes_before_what_waits() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    (running,) = assigned(draw(room, "running"))
    draw(room, "waiting", priority="Critical")
    effects = room.send("unload_model", request_id="u", model_id="m", force_unload=True)
    (cancel,) = cancels(effects)
    assert (cancel.request_id, cancel.code) == ("running", ErrorCode.CANCELLED)
    after = room.finish(running, code=ErrorCode.CANCELLED)
    assert answer(after)["state"] == "cancelled"
    assert ids(after) == ["u"]


def test_forced_unload_leaves_another_models_work_alone() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"), residency("n"))
    (running,) = assigned(draw(room, "running"))
    assert cancels(room.send("unload_model", request_id="u", model_id="n", force=True)) == []
    draw(room, "later", priority="Critical")
    assert ids(room.finish(running)) == ["u"]


def test_plain_unload_waits_its_turn() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    (first,) = assigned(draw(room, "a"))
    draw(room, "b")
    assert cancels(room.send("unload_model", request_id="u", model_id="m")) == []
    assert run_all(room, first) == ["a", "b", "u"]


@pytest.mark.parametrize("limit", ["queued_per_client", "queued_per_device", "queued_total"])
def test_on_a_queue_limit_all_works_and_one_past_it_is_refused_at_once(limit: str) -> None:
    room = Room(limits=Limits(**{limit: 3}))
    assert ids(draw(room, "running")) == ["running"]
    for number in range(3):
        assert replies(draw(room, f"q{number}")) == []
    refused = answer(draw(room, "one-more"))
    assert code(refused) == "QUEUE_FULL"
    assert "3" in refused["message"]
    assert refused["error"]["retryable"]
    assert refused["error"]["retry_after_ms"] > 0


def test_other_clients_are_not_held_to_one_clients_limit() -> None:
    room = Room(limits=Limits(queued_per_client=1))
    draw(room, "running")
    draw(room, "q0")
    assert code(answer(draw(room, "q1"))) == "QUEUE_FULL"
    assert replies(draw(room, "other", b"c2")) == []


def test_a_command_that_found_the_queue_full_can_be_sent_again_with_its_id() -> None:
    room = Room(limits=Limits(queued_per_client=1))
    (running,) = assigned(draw(room, "running"))
    draw(room, "q0")
    assert code(answer(draw(room, "again"))) == "QUEUE_FULL"
    assert room.ask("get_result", target_request_id="again")["job_state"] == "unknown"
    (following,) = assigned(room.finish(running))
    assert replies(draw(room, "again")) == []
    assert ids(room.finish(following)) == ["again"]


def test_places_in_the_queue_come_back_however_commands_end() -> None:
    room = Room(limits=Limits(queued_per_client=2, queued_per_device=2, queued_total=2))
    (running,) = assigned(draw(room, "running"))
    for round_ in range(5):
        draw(room, f"a{round_}")
        draw(room, f"b{round_}", timeout_seconds=1)
        room.send("cancel", target_request_id=f"a{round_}")
        room.wait(1.1)
    assert replies(draw(room, "last")) == []
    assert room.core.context.jobs.queued_total == 1
    assert ids(room.finish(running)) == ["last"]
    assert room.core.context.jobs.queued_total == 0
    assert room.core.context.jobs.queued_by(b"c1") == 0


def test_cancelled_timers_do_not_pile_up() -> None:
    room = Room()
    for number in range(20_000):
        (running,) = assigned(draw(room, f"r{number}"))
        room.finish(running)
    assert len(room.core.context.timers._heap) < 5000


def test_a_refused_client_is_told_when_what_runs_will_have_ended() -> None:
    room = Room(("cpu:0",), limits=Limits(queued_per_device=1))
    (running,) = assigned(draw(room, "running"))
    draw(room, "waits")
    told = []
    for eta_ms in (4000.0, 1500.0, 1.0, 1e9):
        update = JobUpdate(
            request_id="running", attempt=1, state=ReplyState.PROGRESS, success=True, step=1, eta_ms=eta_ms
        )
        room.handle(WorkerMessage(running.worker, update))
        told.append(answer(draw(room, f"late-{eta_ms}"))["error"]["retry_after_ms"])
    assert told == [pytest.approx(4000, abs=1), pytest.approx(1500, abs=1), 20, 60_000]
