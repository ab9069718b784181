"""Request ids that come again, replies that are fetched later, commands that are not waited for, progress."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from room import Room, answer, assigned, code, replies, sent

from broker.core.events import ClientMessage
from broker.core.finals import KEEP_SECONDS
from protocol.errors import ErrorCode


def draw(room: Room, request_id: str, client: bytes = b"c1", **fields: Any) -> list[Any]:
    return room.send("generate", client, request_id=request_id, **{"model_id": "m", "prompt": "x", **fields})


def test_every_message_with_a_known_id_gets_the_outcome_and_nothing_runs_twice() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r", b"c1"))
    assert draw(room, "r", b"c1") == []
    assert draw(room, "r", b"c2") == []
    effects = room.finish(running, attachments=(b"png",))
    assert [(reply.client, reply.frames[1]) for reply in sent(effects)] == [
        (b"c1", b"png"),
        (b"c1", b"png"),
        (b"c2", b"png"),
    ]
    (late,) = sent(draw(room, "r", b"c3"))
    assert late.frames == sent(effects)[0].frames
    assert len(assigned(room.effects)) == 1


def test_a_repeat_is_answered_in_its_own_spelling_encoding_and_envelope() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    pascal = b'{"Action":"generate","RequestId":"r","ModelId":"m","Prompt":"x"}'
    room.handle(ClientMessage(b"c2", (b"",), pascal))
    packed = msgspec.msgpack.encode({"action": "generate", "request_id": "r", "model_id": "m", "prompt": "x"})
    room.handle(ClientMessage(b"c3", (b"1234", b""), packed))
    first, second, third = sent(room.finish(running))
    assert msgspec.json.decode(first.frames[0])["steps_done"] == 2
    assert second.frames[0] == b""
    assert msgspec.json.decode(second.frames[1])["StepsDone"] == 2
    assert third.frames[:2] == (b"1234", b"")
    assert msgspec.msgpack.decode(third.frames[2])["steps_done"] == 2


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("other", [{"prompt": "y"}, {"model_id": "n"}, {"priority": "High"}])
def test_a_known_id_with_another_meaning_is_refused(other: dict[str, Any], final: bool) -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    if final:
        room.finish(running)
    reply = answer(draw(room, "r", b"c2", **other))
    assert (reply["request_id"], code(reply)) == ("r", "DUPLICATE_REQUEST")
    assert code(answer(room.send("load_model", request_id="r", model_id="m"))) == "DUPLICATE_REQUEST"


@pytest.mark.parametrize("final", [False, True])
def test_other_attachments_are_another_meaning(final: bool) -> None:
    room = Room()
    fields = {"action": "generate", "request_id": "r", "model_id": "m", "prompt": "x", "strength": 0.5}
    fields["attachments"] = [{"name": "image-0", "bytes": 3}]
    (running,) = assigned(room.send_raw(fields, (b"one",)))
    if final:
        room.finish(running)
    assert code(answer(room.send_raw(fields, (b"two",)))) == "DUPLICATE_REQUEST"
    assert len(replies(room.send_raw(fields, (b"one",)))) == final


def test_ids_of_broker_and_control_commands_are_free_again() -> None:
    room = Room()
    assert room.ask("ping", request_id="r")["success"]
    assert room.ask("list_devices", request_id="r")["success"]


def test_wait_for_completion_false_is_accepted_and_the_outcome_fetched() -> None:
    room = Room()
    effects = draw(room, "r", wait_for_completion=False)
    reply = answer(effects)
    assert (reply["state"], reply["success"], reply["request_id"]) == ("accepted", True, "r")
    assert answer(draw(room, "r", wait_for_completion=False))["state"] == "accepted"
    (running,) = assigned(room.effects)
    assert replies(room.finish(running, attachments=(b"png",))) == []
    (fetched,) = sent(room.send("get_result", target_request_id="r"))
    result = msgspec.json.decode(fetched.frames[0])
    assert (result["job_state"], result["result"]["request_id"]) == ("final", "r")
    assert fetched.frames[1:] == (b"png",)


def test_one_who_waits_for_a_command_that_was_accepted_gets_its_final_reply() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r", wait_for_completion=False))
    assert replies(draw(room, "r", b"c2")) == []
    assert answer(room.finish(running), b"c2")["state"] == "completed"


def test_a_command_that_is_refused_at_once_is_never_accepted() -> None:
    assert code(answer(draw(Room(), "r", wait_for_completion=False, model_id="zzz"))) == "MODEL_NOT_FOUND"


def test_wait_for_completion_changes_nothing_on_other_lanes_and_says_so() -> None:
    reply = Room().ask("ping", wait_for_completion=False)
    assert reply["state"] == "completed"
    assert any("wait_for_completion" in warning for warning in reply["warnings"])


def test_get_result_follows_a_command_through_its_life() -> None:
    room = Room(("cpu:0",))
    (running,) = assigned(draw(room, "a"))
    draw(room, "b")
    queued = room.ask("get_result", target_request_id="b")
    assert (queued["job_state"], queued["position"], queued["progress"], queued["device_id"]) == (
        "queued",
        0,
        None,
        "cpu:0",
    )
    live = room.ask("get_result", target_request_id="a")
    assert (live["job_state"], live["progress"]) == ("running", {"step": None, "steps": None, "eta_ms": None})
    room.progress(running, 3)
    assert room.ask("get_result", target_request_id="a")["progress"] == {"step": 3, "steps": 10, "eta_ms": 5.0}
    room.finish(running, code=ErrorCode.INFERENCE_FAILED)
    final = room.ask("get_result", target_request_id="a")
    assert (final["success"], final["job_state"]) == (True, "final")
    assert final["result"]["error"]["code"] == "INFERENCE_FAILED"
    unknown = room.ask("get_result", target_request_id="never")
    assert (unknown["job_state"], unknown["result"]) == ("unknown", None)


def test_get_result_spells_the_result_as_its_own_reply() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    room.finish(running)
    pascal = b'{"Action":"get_result","TargetRequestId":"r"}'
    reply = msgspec.json.decode(sent(room.handle(ClientMessage(b"c2", (), pascal)))[0].frames[0])
    assert reply["Result"]["StepsDone"] == 2
    packed = msgspec.msgpack.encode({"action": "get_result", "target_request_id": "r"})
    reply = msgspec.msgpack.decode(sent(room.handle(ClientMessage(b"c3", (), packed)))[0].frames[0])
    assert reply["result"]["steps_done"] == 2


def test_results_are_kept_ten_minutes() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    room.finish(running)
    worker = running.worker
    assert worker
    room.core.context.spec = msgspec.structs.replace(room.core.context.spec, silence_ms=10**9)
    room.wait(KEEP_SECONDS - 2)
    assert room.ask("get_result", target_request_id="r")["job_state"] == "final"
    room.wait(4)
    assert room.ask("get_result", target_request_id="r")["job_state"] == "unknown"


def test_progress_goes_to_those_who_asked_for_it_alone() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r", b"asked", stream_progress=True))
    draw(room, "r", b"silent")
    effects = room.progress(running, 1, body=True)
    reply = answer(effects)
    assert (sent(effects)[0].client, reply["state"], reply["success"], reply["step"]) == (b"asked", "progress", True, 1)
    assert {effect.client for effect in sent(room.finish(running))} == {b"asked", b"silent"}


def test_progress_that_nobody_asked_for_is_not_sent() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    assert not running.header.stream_progress  # type: ignore[attr-defined]
    assert replies(room.progress(running, 1)) == []
