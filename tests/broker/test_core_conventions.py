"""How replies are spelled: asked, else shown, else remembered for the connection, else the default."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from room import Room, residency, sent

from broker.core.events import ClientMessage


def say(room: Room, payload: dict[str, Any], client: bytes = b"c1") -> Any:
    effects = room.handle(ClientMessage(client, (), msgspec.json.encode(payload)))
    (reply,) = sent(effects)
    return msgspec.json.decode(reply.frames[0])


@pytest.fixture
def room() -> Room:
    room = Room(("cpu:0",))
    room.holds("cpu:0", residency("m"))
    return room


def held(reply: Any) -> tuple[str, Any]:
    """How a `list_devices` reply spells: naming, and the precision of the model held."""
    if "devices" in reply:
        device = reply["devices"][0]
        return (
            ("camel", device["models"][0]["precision"])
            if "deviceId" in device
            else (
                "snake",
                device["models"][0]["precision"],
            )
        )
    return "pascal", reply["Devices"][0]["Models"][0]["Precision"]


def test_without_a_sign_it_is_snake_with_names(room: Room) -> None:
    assert held(say(room, {"action": "list_devices"})) == ("snake", "Float16")


def test_a_request_is_answered_as_it_is_spelled_with_numbers_for_hosts(room: Room) -> None:
    assert held(say(room, {"Action": "list_devices", "DeviceId": "cpu:0"})) == ("pascal", 2)
    assert held(say(room, {"action": "list_devices", "deviceId": "cpu:0"}, b"c2")) == ("camel", 2)
    assert held(say(room, {"action": "list_devices", "device_id": "cpu:0"}, b"c3")) == ("snake", "Float16")


def test_names_shown_are_names_answered(room: Room) -> None:
    assert held(say(room, {"Action": "list_devices", "Priority": "High"})) == ("pascal", "Float16")
    assert held(say(room, {"Action": "list_devices", "Priority": 2}, b"c2")) == ("pascal", 2)
    assert held(say(room, {"action": "list_devices", "device_id": "", "priority": 2}, b"c3")) == ("snake", 2)


def test_what_a_request_does_not_show_is_as_it_was_shown_before(room: Room) -> None:
    say(room, {"Action": "list_devices", "Priority": "High"})
    assert held(say(room, {"action": "list_devices"})) == ("pascal", "Float16")
    assert held(say(room, {"action": "list_devices"}, b"another")) == ("snake", "Float16")


def test_names_shown_in_snake_are_remembered_when_the_naming_changes(room: Room) -> None:
    say(room, {"action": "list_devices", "priority": "High"})
    assert held(say(room, {"action": "list_devices", "deviceId": "cpu:0"})) == ("camel", "Float16")


def test_hello_sets_the_connection(room: Room) -> None:
    reply = say(room, {"action": "hello", "conventions": {"naming": "pascal", "enums": "name"}})
    assert reply["Conventions"] == {"Naming": "pascal", "Enums": "name"}
    assert held(say(room, {"action": "list_devices"})) == ("pascal", "Float16")


def test_what_a_request_shows_wins_over_hello(room: Room) -> None:
    say(room, {"action": "hello", "conventions": {"naming": "pascal", "enums": "name"}})
    assert held(say(room, {"action": "list_devices", "device_id": "cpu:0"})) == ("snake", "Float16")


def test_conventions_of_a_command_are_for_that_command(room: Room) -> None:
    asked = {"action": "list_devices", "conventions": {"naming": "camel"}}
    assert held(say(room, asked)) == ("camel", 2)
    assert held(say(room, {"action": "list_devices"})) == ("snake", "Float16")


def test_refusals_are_spelled_like_replies(room: Room) -> None:
    reply = say(room, {"Action": "generate", "RequestId": "r", "ModelId": "m"})
    assert (reply["RequestId"], reply["Error"]["Code"]) == ("r", "MISSING_PARAMETER")


def test_the_reply_uses_the_encoding_of_the_request(room: Room) -> None:
    (reply,) = sent(room.handle(ClientMessage(b"c", (), msgspec.msgpack.encode({"action": "ping"}))))
    assert msgspec.msgpack.decode(reply.frames[0])["success"] is True
    (reply,) = sent(room.handle(ClientMessage(b"c", (), msgspec.msgpack.encode(["ping"]))))
    refused = msgspec.msgpack.decode(reply.frames[0])
    assert (refused["request_id"], refused["error"]["code"]) == (None, "MALFORMED_MESSAGE")
