"""How commands end early: deadlines, cancellation at every stage, stopping the broker."""

from __future__ import annotations

from typing import Any

import pytest
from room import Room, answer, assigned, cancels, code, ids, kills, model, replies, residency, to_workers

from broker.core.dispatch import GRACE_SECONDS, KILL_SECONDS
from broker.core.events import Exit
from protocol.actions import ACTIONS
from protocol.errors import ErrorCode
from protocol.link import Stop
from protocol.supervision import Drain


def draw(room: Room, request_id: str, client: bytes = b"c1", **fields: Any) -> list[Any]:
    command = {"model_id": "m", "prompt": "x", "device_id": "cpu:0", **fields}
    return room.send("generate", client, request_id=request_id, **command)


def state_of(room: Room, request_id: str) -> str:
    return str(room.ask("get_result", target_request_id=request_id)["job_state"])


# deadlines


def test_a_queued_command_that_expires_is_answered_and_never_started() -> None:
    room = Room()
    (running,) = assigned(draw(room, "running"))
    draw(room, "late", timeout_seconds=5)
    assert replies(room.wait(4.9)) == []
    reply = answer(room.wait(0.2))
    assert (reply["request_id"], code(reply)) == ("late", "TIMEOUT")
    assert "timeout_seconds = 5" in reply["message"]
    assert assigned(room.finish(running)) == []


def test_a_running_command_that_expires_is_stopped_and_answers_for_itself() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r", timeout_seconds=5))
    (cancel,) = cancels(room.wait(5.1))
    assert (cancel.request_id, cancel.code) == ("r", ErrorCode.TIMEOUT)
    assert code(answer(room.finish(running, code=ErrorCode.TIMEOUT))) == "TIMEOUT"
    assert replies(room.wait(60)) == []


def test_what_does_not_stop_is_answered_once_after_the_grace_and_killed_at_last() -> None:
    room = Room(silence_ms=10**9)
    (running,) = assigned(draw(room, "r", timeout_seconds=5))
    room.wait(5.1)
    assert code(answer(room.wait(GRACE_SECONDS))) == "TIMEOUT"
    assert ids(draw(room, "next")) == []
    (kill,) = kills(room.wait(KILL_SECONDS))
    assert (kill.child, kill.generation) == ("cpu:0", 1)
    assert replies(room.finish(running)) == []


def test_the_late_reply_of_an_answered_command_frees_the_device_silently() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r", timeout_seconds=5))
    room.wait(5.1 + GRACE_SECONDS)
    draw(room, "next")
    effects = room.finish(running)
    assert replies(effects) == []
    assert ids(effects) == ["next"]
    assert kills(room.wait(5)) == []


@pytest.mark.parametrize("timeout", [None, 0])
def test_without_a_timeout_the_actions_default_holds(timeout: float | None) -> None:
    room = Room(models=None)
    room.send("load_model", model_id="m", timeout_seconds=timeout)
    assert replies(room.wait(ACTIONS["load_model"].timeout_seconds - 0.5)) == []
    assert code(answer(room.wait(1))) == "TIMEOUT"


def test_a_negative_timeout_is_invalid() -> None:
    assert code(Room().ask("ping", timeout_seconds=-1)) == "INVALID_ARGUMENT"


def test_the_catalogues_commands_expire_too() -> None:
    room = Room()
    (asked,) = assigned(room.send("list_models", request_id="l", timeout_seconds=1))
    assert code(answer(room.wait(1.1))) == "TIMEOUT"
    assert replies(room.finish(asked)) == []


# cancel


def test_cancel_of_a_queued_command_ends_it_at_once() -> None:
    room = Room()
    (running,) = assigned(draw(room, "running"))
    draw(room, "q", b"c2")
    effects = room.send("cancel", b"c1", target_request_id="q")
    cancelled = answer(effects, b"c2")
    assert (code(cancelled), cancelled["state"]) == ("CANCELLED", "cancelled")
    assert answer(effects, b"c1")["outcome"] == "cancelled"
    assert assigned(room.finish(running)) == []


def test_cancel_of_a_running_command_stops_it_at_its_next_step() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    effects = room.send("cancel", b"c2", target_request_id="r")
    assert answer(effects, b"c2")["outcome"] == "cancelling"
    assert [cancel.request_id for cancel in cancels(effects)] == ["r"]
    again = room.send("cancel", b"c2", target_request_id="r")
    assert answer(again)["outcome"] == "cancelling"
    assert cancels(again) == []
    assert answer(room.finish(running, code=ErrorCode.CANCELLED))["state"] == "cancelled"


def test_cancel_of_what_is_over_or_unknown_says_so() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    room.finish(running)
    assert room.ask("cancel", target_request_id="r")["outcome"] == "already_finished"
    assert room.ask("cancel", target_request_id="never-sent")["outcome"] == "unknown"
    assert room.ask("cancel", request_id="self", target_request_id="self")["outcome"] == "unknown"


def test_a_command_that_finishes_while_it_is_cancelled_keeps_its_result() -> None:
    room = Room()
    (running,) = assigned(draw(room, "r"))
    room.send("cancel", b"c2", target_request_id="r")
    assert answer(room.finish(running))["success"]
    assert replies(room.wait(60)) == []


def test_cancel_of_a_command_on_several_devices_ends_all_its_parts() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:1", residency("m"))
    (busy,) = assigned(draw(room, "busy"))
    parts = assigned(room.send("unload_model", request_id="u", model_id="m"))
    assert len(parts) == 1
    effects = room.send("cancel", b"c2", target_request_id="u")
    assert answer(effects, b"c2")["outcome"] == "cancelling"
    assert len(cancels(effects)) == 1
    assert answer(room.finish(parts[0], code=ErrorCode.CANCELLED), b"c1")["state"] == "cancelled"
    assert assigned(room.finish(busy)) == []


@pytest.mark.parametrize("stage", ["undecided", "catalogue waits", "catalogue runs"])
def test_cancel_reaches_commands_that_have_no_device(stage: str) -> None:
    room = Room(models=None) if stage != "catalogue runs" else Room()
    if stage == "undecided":
        room.send("load_model", b"c2", request_id="r", model_id="m")
    else:
        room.send("list_models", b"c2", request_id="r")
    effects = room.send("cancel", target_request_id="r")
    assert code(answer(effects, b"c2")) == "CANCELLED"
    assert answer(effects, b"c1")["outcome"] == "cancelled"
    room.new()
    room.register_catalog()
    room.entries(model("m"), complete=True)
    later = room.new()
    assert replies(later) == []
    assert ids(later) == []


# draining


def test_drain_answers_what_waits_and_lets_what_runs_end() -> None:
    room = Room()
    (running,) = assigned(draw(room, "running"))
    (asked,) = assigned(room.send("list_models", request_id="listing"))
    draw(room, "waiting")
    reply = answer(room.handle(Drain(seconds=10)))
    assert (reply["request_id"], code(reply)) == ("waiting", "DRAINING")
    assert code(answer(draw(room, "new"))) == "DRAINING"
    assert room.ask("ping")["success"]
    assert answer(room.finish(running))["success"]
    assert answer(room.finish(asked))["success"]
    effects = room.wait(0.1)
    assert len(to_workers(effects, Stop)) == 3
    assert any(isinstance(effect, Exit) for effect in effects)


def test_when_the_drain_time_is_over_what_runs_is_stopped_and_answered() -> None:
    room = Room()
    draw(room, "running")
    room.handle(Drain(seconds=2))
    effects = room.wait(4)
    assert [cancel.code for cancel in cancels(effects)] == [ErrorCode.DRAINING]
    assert code(answer(effects)) == "DRAINING"
    assert any(isinstance(effect, Exit) for effect in effects)


def test_an_idle_broker_drains_at_once() -> None:
    effects = Room().handle(Drain(seconds=10))
    assert any(isinstance(effect, Exit) for effect in effects)


def test_a_command_accepted_earlier_has_its_outcome_when_the_broker_drains() -> None:
    room = Room()
    draw(room, "running")
    assert answer(draw(room, "later", wait_for_completion=False))["state"] == "accepted"
    assert state_of(room, "later") == "queued"
    room.handle(Drain(seconds=10))
    result = room.ask("get_result", target_request_id="later")
    assert (result["job_state"], result["result"]["error"]["code"]) == ("final", "DRAINING")


def test_what_waited_for_the_catalogue_past_its_deadline_is_not_handed_to_it() -> None:
    room = Room(models=None)
    room.send("list_models", request_id="late", timeout_seconds=10)
    room.now += 20  # the broker stood still: no timer was looked at
    room.new()
    room.register_catalog()
    effects = room.new()
    assert ids(effects) == []
    assert code(answer(effects)) == "TIMEOUT"


def test_what_waited_for_a_decision_past_its_deadline_is_not_given_to_a_worker() -> None:
    for action in ("pin_model", "load_model"):
        room = Room(models=None)
        room.register_catalog()
        room.send(action, request_id="late", model_id="m", device_id="cpu:0", timeout_seconds=10)
        room.now += 20
        room.new()
        room.entries(model("m"), complete=True)
        effects = room.new()
        assert ids(effects) == []
        assert code(answer(effects)) == "TIMEOUT"
