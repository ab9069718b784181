"""The beginning of an id is enough where the sender says that it is one, and where one command's id begins so."""

from __future__ import annotations

from typing import Any

from room import Room, assigned, code, replies


def drawing(*request_ids: str) -> Room:
    room = Room(("cpu:0",))
    for request_id in request_ids:
        room.send("generate", request_id=request_id, model_id="m", prompt="x")
    return room


def cancelled(room: Room, beginning: str, **fields: Any) -> Any:
    return room.ask("cancel", target_request_id=beginning, prefix=True, **fields)


def test_a_beginning_names_the_one_command_that_begins_so() -> None:
    room = drawing("red-1", "blue-2")
    sent = replies(room.send("cancel", target_request_id="bl", prefix=True))
    (reply,) = [reply for reply in sent if reply["action"] == "cancel"]
    assert (reply["target_request_id"], reply["outcome"]) == ("blue-2", "cancelled")
    assert room.ask("get_result", target_request_id="re", prefix=True)["target_request_id"] == "red-1"
    assert room.ask("explain", target_request_id="red", prefix=True)["chosen"] == "cpu:0"


def test_what_ended_is_found_too_and_what_is_under_way_comes_first() -> None:
    room = drawing("a-1", "a-2")
    room.finish(assigned(room.effects)[0])
    assert room.ask("get_result", target_request_id="a-1", prefix=True)["job_state"] == "final"
    assert room.ask("get_result", target_request_id="a", prefix=True)["target_request_id"] == "a-2"


def test_several_that_begin_so_are_named_and_nothing_is_done() -> None:
    room = drawing(*(f"job-{number}" for number in range(8)))
    reply = cancelled(room, "job")
    assert code(reply) == "INVALID_ARGUMENT"
    assert "job-0, job-1, job-2, job-3, job-4 and 3 more" in reply["message"]
    assert room.ask("get_result", target_request_id="job-0")["job_state"] == "running"


def test_a_whole_id_is_meant_even_where_others_begin_so() -> None:
    room = drawing("job", "job-2")
    assert cancelled(room, "job")["target_request_id"] == "job"


def test_without_the_word_an_id_is_whole_or_unknown() -> None:
    room = drawing("job-1")
    assert room.ask("cancel", target_request_id="job")["outcome"] == "unknown"
    assert cancelled(room, "zzz")["outcome"] == "unknown"
