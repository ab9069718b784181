"""Workers that come, go, fall silent and come back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from room import CATALOG, Room, answer, assigned, code, ids, kills, model, replies, residency, to_workers

from broker.core.events import SendWorker, WorkerMessage, WorkerUnreachable
from protocol.enums import ReplyState
from protocol.errors import ErrorCode
from protocol.link import CATALOG_ID, Assign, Beat, CatalogRefusals, Farewell, JobUpdate, UsageFact, Welcome
from protocol.replies import RefusedFile
from protocol.supervision import ChildExited, ChildStarted


def draw(room: Room, request_id: str, client: bytes = b"c1", **fields: Any) -> list[Any]:
    return room.send("generate", client, request_id=request_id, **{"model_id": "m", "prompt": "x", **fields})


def state(room: Room, index: int = 0) -> str:
    return str(room.ask("list_devices")["devices"][index]["state"])


def exited(device: str, generation: int = 1, *, restarting: bool = True) -> ChildExited:
    return ChildExited(child=device, generation=generation, reason="ended by SIGKILL", restarting=restarting)


def test_a_worker_is_welcomed_and_gets_work_once_it_is_ready() -> None:
    room = Room(("cpu:0",), connected=False)
    draw(room, "r")
    assert state(room) == "starting"
    worker = room.register("cpu:0", ready=False)
    effects = room.new()
    (welcome,) = to_workers(effects, Welcome)
    assert welcome.worker == worker
    assert assigned(effects) == []
    room.holds("cpu:0")
    assert ids(room.new()) == ["r"]
    assert state(room) == "busy"


def test_worker_death_fails_what_runs_and_the_queue_goes_elsewhere() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    assert ids(draw(room, "running")) == ["running"]
    draw(room, "movable")
    draw(room, "bound", device_id="cpu:0")
    effects = room.handle(exited("cpu:0"))
    reply = answer(effects)
    assert (reply["request_id"], code(reply)) == ("running", "WORKER_LOST")
    assert reply["error"]["retryable"]
    (moved,) = assigned(effects)
    assert isinstance(moved.header, Assign)
    assert (moved.header.request_id, moved.header.device_id) == ("movable", "cpu:1")
    assert state(room) == "lost"
    room.new()
    room.register("cpu:0", generation=2)
    assert ids(room.new()) == ["bound"]


def test_queued_commands_wait_for_the_restart_when_there_is_no_other_device() -> None:
    room = Room(("cpu:0",))
    draw(room, "running")
    draw(room, "queued")
    assert [reply["request_id"] for reply in replies(room.handle(exited("cpu:0")))] == ["running"]
    room.handle(ChildStarted(child="cpu:0", generation=2, pid=5, restarts=1))
    assert state(room) == "starting"
    room.new()
    room.register("cpu:0", generation=2)
    assert ids(room.new()) == ["queued"]


def test_when_no_worker_will_come_what_waits_is_answered() -> None:
    room = Room(("cpu:0",))
    draw(room, "running")
    draw(room, "queued")
    codes = {reply["request_id"]: code(reply) for reply in replies(room.handle(exited("cpu:0", restarting=False)))}
    assert codes == {"running": "WORKER_LOST", "queued": "DEVICE_UNAVAILABLE"}
    assert state(room) == "disabled"
    assert code(answer(draw(room, "new", device_id="cpu:0"))) == "DEVICE_UNAVAILABLE"


def test_control_commands_of_a_dead_worker_are_answered() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.send("pin_model", request_id="p", model_id="m")
    assert code(answer(room.handle(exited("cpu:0")))) == "WORKER_LOST"


def test_a_dead_worker_holds_nothing() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"), used=1000)
    room.handle(exited("cpu:0"))
    reply = room.ask("get_vram_model_status")
    assert reply["models"] == []
    assert reply["used_vram"] == 0


def test_the_death_of_an_older_incarnation_changes_nothing() -> None:
    room = Room()
    room.register("cpu:0", generation=3)
    draw(room, "r", device_id="cpu:0")
    assert replies(room.handle(exited("cpu:0", generation=2))) == []
    assert state(room) == "busy"


def test_a_registration_of_an_older_incarnation_is_ignored() -> None:
    room = Room()
    room.register("cpu:0", generation=3)
    room.new()
    room.register("cpu:0", generation=2)
    assert to_workers(room.new(), Welcome) == []
    assert room.core.context.fleet.devices["cpu:0"].generation == 3


def test_a_silent_worker_is_killed_and_its_work_answered() -> None:
    room = Room(("cpu:0",), silence_ms=2000)
    draw(room, "r")
    effects = room.wait(3.5)
    (kill,) = kills(effects)
    assert (kill.child, kill.generation) == ("cpu:0", 1)
    assert code(answer(effects)) == "WORKER_LOST"


def test_beats_keep_a_worker_alive() -> None:
    room = Room(("cpu:0",), silence_ms=2000)
    for _ in range(10):
        assert kills(room.wait(1)) == []
        for worker in (room.worker("cpu:0"), CATALOG):
            room.handle(WorkerMessage(worker, Beat(progress_count=1)))


def test_an_unreachable_worker_is_killed_and_its_work_answered() -> None:
    room = Room(("cpu:0",))
    draw(room, "r")
    effects = room.handle(WorkerUnreachable(room.worker("cpu:0")))
    assert [kill.child for kill in kills(effects)] == ["cpu:0"]
    assert code(answer(effects)) == "WORKER_LOST"
    assert room.handle(WorkerUnreachable(b"nobody")) == []


def test_replies_of_stale_attempts_and_strangers_are_dropped() -> None:
    room = Room(("cpu:0",))
    draw(room, "old")
    (running,) = assigned(room.effects)
    header = running.header
    assert isinstance(header, Assign)
    stale = msgspec.structs.replace(header, attempt=header.attempt + 1)
    assert replies(room.finish(SendWorker(running.worker, stale))) == []
    other = msgspec.structs.replace(header, request_id="other")
    assert replies(room.finish(SendWorker(running.worker, other))) == []
    assert replies(room.finish(SendWorker(b"stranger", header))) == []
    assert answer(room.finish(running))["success"]
    assert replies(room.finish(running)) == []


def test_the_reply_of_a_worker_that_was_given_up_is_dropped() -> None:
    room = Room(("cpu:0",))
    (running,) = assigned(draw(room, "r"))
    room.handle(exited("cpu:0"))
    room.register("cpu:0", generation=2)
    assert replies(room.finish(running)) == []
    assert state(room) == "ready"


def test_after_a_broker_restart_an_unknown_worker_is_told_the_epoch_and_registers_again() -> None:
    room = Room(("cpu:0",), connected=False)
    worker = b"cpu:0/3/x"
    (welcome,) = to_workers(room.handle(WorkerMessage(worker, Beat(progress_count=9))), Welcome)
    assert isinstance(welcome.header, Welcome)
    assert (welcome.worker, welcome.header.epoch) == (worker, "epoch-1")
    room.register("cpu:0", generation=3, incarnation="x")
    room.holds("cpu:0", residency("m"))
    assert state(room) == "ready"
    assert ids(draw(room, "r")) == ["r"]


def test_another_worker_takes_a_device_over() -> None:
    room = Room(("cpu:0",))
    draw(room, "r")
    room.new()
    room.register("cpu:0", generation=1, incarnation="b")
    effects = room.new()
    assert code(answer(effects)) == "WORKER_LOST"
    assert assigned(draw(room, "next"))[0].worker == b"cpu:0/1/b"


def test_a_reply_without_a_body_is_an_internal_error_not_silence() -> None:
    room = Room(("cpu:0",))
    (running,) = assigned(draw(room, "r"))
    assert isinstance(running.header, Assign)
    update = JobUpdate(request_id="r", attempt=running.header.attempt, state=ReplyState.COMPLETED, success=True)
    assert code(answer(room.handle(WorkerMessage(running.worker, update)))) == "INTERNAL_ERROR"


def test_the_catalogue_hears_of_every_device_command() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    (fact,) = to_workers(room.finish(running), UsageFact)
    assert fact.worker == CATALOG
    assert isinstance(fact.header, UsageFact)
    assert (fact.header.model_id, fact.header.action, fact.header.success) == ("m", "generate", True)


@pytest.mark.parametrize("how", ["exited", "unreachable", "taken over"])
def test_a_lost_catalogue_fails_what_may_not_run_twice_and_the_next_one_gets_the_rest(how: str) -> None:
    room = Room()
    room.send("register_model", request_id="lost", model_path="/models/x")
    room.send("list_models", request_id="read")
    room.new()
    match how:
        case "exited":
            room.handle(exited(CATALOG_ID))
        case "unreachable":
            room.handle(WorkerUnreachable(CATALOG))
        case _:
            room.register_catalog(b"catalog/2", 2)
    effects = room.new()
    assert code(answer(effects)) == "WORKER_LOST"
    assert [kill.child for kill in kills(effects)] == ([CATALOG_ID] if how == "unreachable" else [])
    room.send("list_models", request_id="next")
    if how == "taken over":
        assert ids(effects) == ["read"] and ids(room.new()) == ["next"]
        return
    assert ids(effects + room.new()) == []
    room.register_catalog(b"catalog/2", 2)
    assert ids(room.new()) == ["read", "next"]


def test_models_that_the_catalogue_drops_are_unknown() -> None:
    room = Room()
    room.entries(model("o"), removed=["m"])
    assert code(room.ask("load_model", model_id="m")) == "MODEL_NOT_FOUND"
    assert ids(room.send("load_model", request_id="o", model_id="o")) == ["o"]
    room.entries(model("m"), complete=True)
    assert code(room.ask("load_model", model_id="n")) == "MODEL_NOT_FOUND"


def test_a_worker_that_says_farewell_is_lost_at_once_with_its_reason() -> None:
    room = Room()
    (draws,) = assigned(room.send("generate", request_id="g", model_id="m", prompt="x", device_id="cpu:0"))
    room.send("generate", request_id="waits", model_id="m", prompt="x", device_id="cpu:0")
    effects = room.handle(WorkerMessage(draws.worker, Farewell(reason="CUDA error: an illegal memory access")))
    failed = answer(effects)
    assert (failed["request_id"], code(failed)) == ("g", "WORKER_LOST")
    assert "an illegal memory access" in failed["message"]
    assert [kill.child for kill in kills(effects)] == ["cpu:0"]
    assert room.ask("list_devices", device_id="cpu:0")["devices"][0]["state"] == "lost"
    assert not assigned(effects), "an idle-looking device attracts no work"


def test_a_refused_file_is_known_by_its_id_to_every_command() -> None:
    room = Room()
    file = RefusedFile(
        path="/m/cut.safetensors", code=ErrorCode.MODEL_CORRUPTED, reason="it ends early", model_id="cut"
    )
    room.handle(WorkerMessage(CATALOG, CatalogRefusals(files=[file])))
    for action in ("load_model", "plan", "get_vram_model_status", "benchmark_model"):
        reply = room.ask(action, model_id="cut")
        assert code(reply) == "MODEL_CORRUPTED"
        assert "refused: it ends early" in reply["message"]
    assert code(room.ask("load_component", model_id="m", component="vae", source_model_id="cut")) == "MODEL_CORRUPTED"
    room.entries(model("cut"))
    assert ids(room.send("load_model", request_id="c", model_id="cut")) == ["c"]
    room.handle(WorkerMessage(CATALOG, CatalogRefusals(files=[])))
    assert code(room.ask("load_model", model_id="cu")) == "MODEL_NOT_FOUND"
