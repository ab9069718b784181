"""Faults that nobody foresaw cost the message or the timer that they came with, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core.desk import Desk
from broker.core.dispatch import Dispatch
from broker.core.events import Log
from protocol.replies import Limits
from tests.broker.room import Room, answer, assigned, code, replies


@pytest.fixture
def room() -> Room:
    room = Room()
    room.expects_incidents = True
    return room


def boom(*_: Any) -> None:
    raise RuntimeError("nobody foresaw this")


def incident(room: Room) -> dict[str, Any]:
    (found,) = [effect.fields for effect in room.effects if isinstance(effect, Log) and effect.event == "incident"]
    return found


def test_the_sender_is_told_the_incident_and_the_next_message_is_served(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Desk, "_ping", boom)
        reply = answer(room.send("ping", request_id="p1"))
    assert (reply["request_id"], code(reply)) == ("p1", "INTERNAL_ERROR")
    assert reply["error"]["details"]["incident_id"] == incident(room)["incident_id"]
    assert "nobody foresaw this" in incident(room)["trace"] and "nobody foresaw" not in reply["message"]
    assert not len(room.core.context.jobs)
    assert room.ask("ping")["success"] is True


def test_a_job_that_was_made_before_the_fault_ends_with_it_and_is_answered_once(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Dispatch, "pump", boom)
    reply = answer(room.send("generate", model_id="m", prompt="x", device_id="cpu:0"))
    assert code(reply) == "INTERNAL_ERROR" and reply["request_id"]
    assert not len(room.core.context.jobs)


def test_a_timer_that_fails_harms_no_other(room: Room) -> None:
    context = room.core.context
    fired: list[float] = []
    context.timers.at(room.now + 1, boom)
    context.timers.at(room.now + 1, fired.append)
    room.wait(5)
    assert len(fired) == 1 and incident(room)["what"] == "a timer"
    assert context.timers.next_at() is not None, "those that recur go on"


def test_a_final_reply_that_cannot_be_taken_in_ends_its_command_and_frees_its_device(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,) = assigned(room.send("generate", request_id="g1", model_id="m", prompt="x", device_id="cpu:0"))
    room.send("generate", request_id="g2", model_id="m", prompt="x", device_id="cpu:0")
    with monkeypatch.context() as patch:
        patch.setattr("broker.core.workforce.learn", boom)
        effects = room.finish(first)
    assert [(r["request_id"], code(r)) for r in replies(effects)] == [("g1", "INTERNAL_ERROR")]
    assert [effect.header.request_id for effect in assigned(effects)] == ["g2"]


def test_a_stored_id_resent_under_lowered_limits_is_answered() -> None:
    room = Room()
    room.finish(*assigned(room.send("generate", request_id="g", model_id="m", prompt="a long prompt", steps=50)))
    again = Room(limits=Limits(steps=10, prompt_bytes=5), store=room.store)
    reply = again.ask("generate", request_id="g", model_id="m", prompt="other", steps=5)
    assert code(reply) == "DUPLICATE_REQUEST"


def test_an_accepted_command_is_done_though_the_limits_were_lowered() -> None:
    room = Room()
    room.send(
        "generate", request_id="g", model_id="m", prompt="x", steps=50, wait_for_completion=False, device_id="cpu:0"
    )
    accepted = room.store.unfinished()
    assert [one.request_id for one in accepted] == ["g"]
    room.store._accepted["g"] = type(accepted[0])(
        "g", accepted[0].client, accepted[0].body, accepted[0].spelling, accepted[0].digests
    )
    again = Room(limits=Limits(steps=10), store=room.store)
    assert "g" in [effect.header.request_id for effect in assigned(again.effects)]
