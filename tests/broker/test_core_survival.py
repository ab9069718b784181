"""What outlives a worker, or the broker itself: retries, quarantine, adoption, accepted commands."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from room import VRAM, Room, answer, assigned, code, ids, kills, replies, residency, success_of, worker_of

from broker.core.events import SendWorker, WorkerMessage
from broker.core.retries import QUARANTINE_SECONDS
from protocol.codec import encode_reply
from protocol.enums import DeviceKind, Lane
from protocol.link import Assign, CancelJob, Holding, JobUpdate, ModelRef, Register, Spelling
from protocol.supervision import ChildExited, ChildStarted
from protocol.telemetry import DeviceIdentity


def die(room: Room, device: str, generation: int = 1) -> None:
    room.handle(ChildExited(child=device, generation=generation, reason="ended by SIGKILL", restarting=True))


def draw(room: Room, request_id: str, **fields: Any) -> list[Any]:
    return room.send("generate", request_id=request_id, **{"model_id": "m", "prompt": "x", **fields})


def only(effects: list[Any]) -> SendWorker:
    (one,) = assigned(effects)
    return one


# retries


def test_an_idempotent_command_runs_again_elsewhere_when_its_worker_dies() -> None:
    room = Room()
    first = only(room.send("load_model", request_id="l", model_id="m"))
    assert isinstance(first.header, Assign)
    room.new()
    die(room, first.header.device_id)
    again = only(room.new())
    assert isinstance(again.header, Assign)
    assert (again.header.request_id, again.header.attempt) == ("l", 2)
    assert again.header.device_id != first.header.device_id
    assert answer(room.finish(again))["success"]


def test_a_reply_of_the_lost_attempt_is_dropped() -> None:
    room = Room()
    first = only(room.send("load_model", request_id="l", model_id="m"))
    assert isinstance(first.header, Assign)
    die(room, first.header.device_id)
    assert replies(room.finish(first)) == []


def test_a_picture_is_never_drawn_twice() -> None:
    room = Room()
    first = only(draw(room, "g"))
    assert isinstance(first.header, Assign)
    room.new()
    die(room, first.header.device_id)
    effects = room.new()
    assert code(answer(effects)) == "WORKER_LOST" and assigned(effects) == []


def test_a_command_that_killed_two_workers_is_quarantined_under_any_id() -> None:
    room = Room(("cpu:0", "cpu:1", "cpu:2"))
    room.send("load_model", request_id="a", model_id="m", device_id="cpu:0")
    die(room, "cpu:0")
    room.register("cpu:0", 2)
    room.new()
    die(room, "cpu:0", 2)
    reply = answer(room.new())
    assert code(reply) == "WORKER_LOST" and not reply["error"]["retryable"]
    room.register("cpu:0", 3)
    refused = room.ask("load_model", request_id="b", model_id="m", device_id="cpu:0")
    assert code(refused) == "WORKER_LOST" and "60 minutes" in refused["message"]
    assert ids(room.send("load_model", request_id="c", model_id="n", device_id="cpu:0")) == ["c"]


def test_a_command_that_ended_well_is_above_suspicion() -> None:
    room = Room(("cpu:0",))
    draw(room, "a")
    die(room, "cpu:0")
    room.register("cpu:0", 2)
    room.new()
    room.finish(only(draw(room, "b")))
    draw(room, "c")
    die(room, "cpu:0", 2)
    room.register("cpu:0", 3)
    room.new()
    assert ids(draw(room, "d")) == ["d"]


def test_quarantine_ends_after_an_hour() -> None:
    room = Room(("cpu:0",))
    for generation in (1, 2):
        room.register("cpu:0", generation)
        draw(room, f"g{generation}")
        die(room, "cpu:0", generation)
    room.register("cpu:0", 3)
    room.new()
    assert code(room.ask("generate", model_id="m", prompt="x", request_id="early")) == "WORKER_LOST"
    room.now += QUARANTINE_SECONDS
    room.holds("cpu:0")
    assert ids(draw(room, "late")) == ["late"]


# a broker that was killed


def identity(device: str) -> DeviceIdentity:
    return DeviceIdentity(device_id=device, uuid=device, name=device, kind=DeviceKind.CPU, total_vram=VRAM)


def holding(request_id: str, *, ended: bool = False, action: str = "generate", **fields: Any) -> Holding:
    model = ModelRef(**{name: getattr(MODEL, name) for name in MODEL.__struct_fields__})
    assign = Assign(
        request_id=request_id,
        attempt=3,
        lane=Lane.DEVICE,
        action=action,
        spelling=Spelling(),
        device_id="cpu:0",
        deadline_ms=1e6,
        model=model,
    )
    command = {"action": action, "model_id": "m", "prompt": "x", "request_id": request_id, **fields}
    return Holding(assign=assign, body=[msgspec.json.encode(command)], ended=ended)


MODEL = Room().core.context.catalogue.models["m"]


def successor(*survivors: str) -> Room:
    """A broker of a new epoch: the catalogue is back, the surviving workers are not yet."""
    room = Room(("cpu:0", "cpu:1"), connected=False, survivors=survivors)
    room.register("cpu:1")
    room.new()
    return room


def come_back(room: Room, *held: Holding) -> bytes:
    worker = worker_of("cpu:0", 4)
    header = Register(
        worker_id=worker.decode(), generation=4, pid=9, device=identity("cpu:0"), ready=True, holding=list(held)
    )
    room.handle(WorkerMessage(worker, header))
    return worker


def end(room: Room, worker: bytes, held: Holding) -> list[Any]:
    reply = success_of(held.assign)
    update = JobUpdate(request_id=held.assign.request_id, attempt=3, state=reply.state, success=True)
    return room.handle(WorkerMessage(worker, update, (encode_reply(reply, Spelling()),)))


def test_running_work_is_adopted_and_its_outcome_is_found() -> None:
    room = successor("cpu:0")
    held = holding("g")
    worker = come_back(room, held)
    assert room.ask("get_result", target_request_id="g")["job_state"] == "running"
    assert room.ask("list_devices")["devices"][0]["state"] == "busy"
    end(room, worker, held)
    found = room.ask("get_result", target_request_id="g")
    assert found["job_state"] == "final" and found["result"]["success"]
    assert room.ask("list_devices")["devices"][0]["state"] == "ready"


def test_a_command_sent_again_before_its_worker_is_back_runs_once() -> None:
    room = successor("cpu:0")
    assert assigned(draw(room, "g")) == []
    room.new()
    held = holding("g")
    worker = come_back(room, held)
    assert assigned(room.new()) == []
    reply = answer(end(room, worker, held))
    assert reply["request_id"] == "g" and reply["success"]


def test_a_command_sent_again_after_its_worker_is_back_joins_it() -> None:
    room = successor("cpu:0")
    held = holding("g")
    worker = come_back(room, held)
    assert assigned(draw(room, "g")) == []
    assert answer(end(room, worker, held))["success"]


def test_another_command_under_an_adopted_id_is_refused() -> None:
    room = successor("cpu:0")
    draw(room, "g", prompt="another")
    room.new()
    worker = come_back(room, holding("g"))
    assert code(answer(room.new())) == "DUPLICATE_REQUEST"
    assert end(room, worker, holding("g")) is not None
    assert room.ask("get_result", target_request_id="g")["result"]["success"]


def test_an_outcome_that_the_old_broker_missed_is_kept() -> None:
    room = successor("cpu:0")
    held = holding("g", ended=True)
    worker = come_back(room, held)
    assert room.ask("list_devices")["devices"][0]["state"] == "ready"
    end(room, worker, held)
    assert room.ask("get_result", target_request_id="g")["job_state"] == "final"


def test_an_outcome_that_is_known_already_is_not_taken_again() -> None:
    room = successor("cpu:0")
    held = holding("g", ended=True)
    end(room, come_back(room, held), held)
    before = room.ask("get_result", target_request_id="g")
    again = come_back(room, held)
    end(room, again, held)
    after = room.ask("get_result", target_request_id="g")
    assert {**before, "timing": 0, "request_id": 0} == {**after, "timing": 0, "request_id": 0}


def test_work_that_was_answered_by_the_old_broker_is_stopped_and_occupies_its_device() -> None:
    room = successor("cpu:0")
    held = holding("g", ended=True)
    end(room, come_back(room, held), held)
    room.new()
    worker = come_back(room, holding("g"))
    stops = [e for e in room.new() if isinstance(e, SendWorker) and isinstance(e.header, CancelJob)]
    assert len(stops) == 1
    assert room.ask("list_devices")["devices"][0]["state"] == "busy"
    assert replies(end(room, worker, holding("g"))) == []
    assert room.ask("list_devices")["devices"][0]["state"] == "ready"


@pytest.mark.parametrize("how", ["registers", "is gone", "stays away"])
def test_nothing_is_placed_until_every_survivor_is_accounted_for(how: str) -> None:
    room = successor("cpu:0")
    draw(room, "g")
    assert assigned(room.new()) == []
    match how:
        case "registers":
            come_back(room)
        case "is gone":
            die(room, "cpu:0", 4)
        case _:
            room.handle(ChildStarted(child="cpu:0", generation=4, pid=1, restarts=0))
            room.wait(15.5)
            effects = room.new()
            assert assigned(effects) == [] and [kill.child for kill in kills(effects)] == ["cpu:0"]
            die(room, "cpu:0", 4)
    assert ids(room.new()) == ["g"]


def test_accepted_commands_resume_after_a_restart_of_the_broker() -> None:
    room = Room(("cpu:0",))
    draw(room, "busy")
    room.new()
    accepted = room.ask("generate", request_id="g", model_id="m", prompt="x", wait_for_completion=False)
    assert accepted["state"] == "accepted"
    again = Room(("cpu:0",), store=room.store)
    resumed = [e for e in again.effects if isinstance(e, SendWorker) and isinstance(e.header, Assign)]
    assert [e.header.request_id for e in resumed] == ["g"]  # type: ignore[attr-defined]
    again.finish(resumed[0])
    assert again.ask("get_result", target_request_id="g")["result"]["success"]
    assert again.store.unfinished() == []


def test_a_command_that_had_begun_is_lost_with_its_worker_and_never_run_again() -> None:
    room = Room()
    draw(room, "g")
    draw(room, "waits")
    again = Room(store=room.store)
    found = again.ask("get_result", target_request_id="g")
    assert found["job_state"] == "final" and found["result"]["error"]["code"] == "WORKER_LOST"
    assert code(answer(draw(again, "g"))) == "WORKER_LOST"


def test_an_accepted_command_that_had_begun_is_not_run_again_either() -> None:
    room = Room()
    room.send("generate", request_id="g", model_id="m", prompt="x", wait_for_completion=False)
    again = Room(store=room.store)
    assert [e for e in again.effects if isinstance(e, SendWorker) and isinstance(e.header, Assign)] == []
    assert again.ask("get_result", target_request_id="g")["result"]["error"]["code"] == "WORKER_LOST"


def test_a_command_that_had_begun_waits_for_its_surviving_worker() -> None:
    room = Room(("cpu:0", "cpu:1"))
    draw(room, "g", device_id="cpu:0")
    again = Room(("cpu:0", "cpu:1"), connected=False, survivors=("cpu:0",), store=room.store)
    assert replies(draw(again, "g", device_id="cpu:0")) == []
    held = holding("g", device_id="cpu:0")
    worker = come_back(again, held)
    assert answer(end(again, worker, held))["success"]


# equal loads


def test_equal_loads_in_flight_are_one_load() -> None:
    room = Room()
    first = only(room.send("load_model", b"a", request_id="1", model_id="m"))
    assert assigned(room.send("load_model", b"b", request_id="2", model_id="m")) == []
    effects = room.finish(first)
    assert [answer(effects, client)["request_id"] for client in (b"a", b"b")] == ["1", "2"]
    assert room.ask("get_result", target_request_id="2")["result"]["request_id"] == "2"


@pytest.mark.parametrize("other", [{"force": True}, {"pin": True}, {"device_id": "cpu:1"}])
def test_loads_that_differ_are_not_coalesced(other: dict[str, Any]) -> None:
    room = Room(("cpu:0", "cpu:1"))
    room.send("load_model", request_id="1", model_id="m", device_id="cpu:0")
    room.send("load_model", request_id="2", **{"model_id": "m", "device_id": "cpu:0", **other})
    room.new()
    queued = room.ask("get_result", target_request_id="2")
    assert queued["job_state"] == "running" or queued["position"] == 0


def test_a_follower_goes_on_when_its_leader_is_cancelled() -> None:
    room = Room(("cpu:0",))
    blocker = only(draw(room, "busy"))
    room.send("load_model", b"a", request_id="1", model_id="n")
    room.send("load_model", b"b", request_id="2", model_id="n")
    room.new()
    assert answer(room.send("cancel", target_request_id="1"), b"c1")["outcome"] == "cancelled"
    room.new()
    assert ids(room.finish(blocker)) == ["2"]


def test_a_follower_may_be_cancelled_alone() -> None:
    room = Room()
    first = only(room.send("load_model", b"a", request_id="1", model_id="m"))
    room.send("load_model", b"b", request_id="2", model_id="m")
    assert answer(room.send("cancel", b"c", target_request_id="2"), b"c")["outcome"] == "cancelled"
    assert answer(room.finish(first))["request_id"] == "1"


def test_coalesced_loads_do_not_count_against_the_queue() -> None:
    room = Room(("cpu:0",), limits=msgspec.structs.replace(Room().core.context.limits, queued_per_client=1))
    draw(room, "busy")
    room.send("load_model", request_id="1", model_id="m")
    for index in range(5):
        assert replies(room.send("load_model", request_id=f"f{index}", model_id="m")) == []
    assert code(room.ask("load_model", request_id="n", model_id="n")) == "QUEUE_FULL"


# passing


def test_a_resident_models_command_passes_a_cold_one_three_times() -> None:
    room = Room(("cpu:0",))
    room.holds("cpu:0", residency("m"))
    running = only(room.send("generate", b"z", request_id="first", model_id="m", prompt="x"))
    room.send("generate", b"cold", request_id="cold", model_id="n", prompt="x")
    for index in range(5):
        room.send("generate", f"w{index}".encode(), request_id=f"w{index}", model_id="m", prompt="x")
    order = []
    for _ in range(6):
        effects = room.finish(running)
        running = only(effects)
        order += ids(effects)
    assert order == ["w0", "w1", "w2", "cold", "w3", "w4"]


def test_a_client_is_never_passed_by_itself() -> None:
    room = Room(("cpu:0",))
    room.holds("cpu:0", residency("m"))
    running = only(draw(room, "first"))
    draw(room, "cold", model_id="n")
    draw(room, "warm")
    assert ids(room.finish(running)) == ["cold"]
