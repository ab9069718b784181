"""Quotas of a key, on both sides of each limit, and what a key changes for a command: its scope, the admin lane."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from room import Room, answer, assigned

from broker.core.events import ClientMessage, Effect
from broker.core.quotas import Bucket, Quotas, Sender
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.supervision import Quota

ADA = Sender("ada", "A" * 40 + "\t")
BOB = Sender("bob", "B" * 40 + "\t")
ROOT = Sender("root", "R" * 40 + "\t", admin=True)
GONE = Sender("", "G" * 40 + "\t", admitted=False)


def refusal(quotas: Quotas, size_bytes: int = 1, now: float = 0.0, sender: Sender = ADA) -> ErrorInfo | None:
    try:
        quotas.check(sender, size_bytes, now)
    except Fault as fault:
        return fault.info
    return None


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(10.0, 3, now=100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert bucket.take(100.0) == pytest.approx(0.1)
    assert bucket.take(100.05) == pytest.approx(0.05)
    assert bucket.take(100.1001) == 0.0
    assert bucket.take(1000.0) == 0.0
    assert [bucket.take(1000.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]


def test_a_rate_is_refused_until_the_time_that_was_told() -> None:
    quotas = Quotas(Quota(commands_per_second=4.0, burst=2), {})
    assert refusal(quotas) is None
    assert refusal(quotas) is None
    told = refusal(quotas)
    assert told is not None
    assert (told.code, told.retryable, told.retry_after_ms) == (ErrorCode.QUEUE_FULL, True, 250)
    assert refusal(quotas, now=0.249) is not None
    assert refusal(quotas, now=0.2501) is None


def test_a_message_of_the_greatest_size_is_taken_and_one_byte_more_never() -> None:
    quotas = Quotas(Quota(message_bytes=100), {})
    assert refusal(quotas, 100) is None
    told = refusal(quotas, 101)
    assert told is not None
    assert (told.code, told.retryable, told.retry_after_ms) == (ErrorCode.QUEUE_FULL, False, None)
    assert "101" in told.message
    assert "100" in told.message


def test_one_keys_use_is_not_anothers() -> None:
    quotas = Quotas(Quota(burst=1), {"bob": Quota(burst=2)})
    assert [refusal(quotas) is None for _ in range(2)] == [True, False]
    assert [refusal(quotas, sender=BOB) is None for _ in range(3)] == [True, True, False]


def test_work_under_way_is_bounded_and_the_wait_is_what_ends_take() -> None:
    quotas = Quotas(Quota(in_flight=2), {})
    quotas.begin(ADA, 0.0)
    quotas.begin(ADA, 0.0)
    with pytest.raises(Fault) as first:
        quotas.begin(ADA, 0.0)
    quotas.end(ADA, 0.0)
    assert (first.value.code, first.value.info.retry_after_ms) == (ErrorCode.QUEUE_FULL, 1000)
    quotas.end(ADA, 3.0)
    quotas.begin(ADA, 3.0)
    with pytest.raises(Fault) as second:
        quotas.begin(ADA, 4.0)
    assert second.value.info.retry_after_ms == 2000


# in the core


def send(room: Room, action: str, sender: Sender | None, **fields: Any) -> list[Effect]:
    payload = msgspec.json.encode({"action": action, **fields})
    client = (sender.name if sender is not None else "plain").encode()
    return room.handle(ClientMessage(client, (), payload, (), sender))


def code_of(effects: list[Effect]) -> str | None:
    error = answer(effects)["error"]
    return None if error is None else str(error["code"])


def test_only_an_admins_key_may_use_the_admin_lane() -> None:
    room = Room()
    assert code_of(send(room, "drain_device", ADA, device_id="cpu:0")) == "UNAUTHORIZED"
    assert code_of(send(room, "drain_device", ROOT, device_id="cpu:0")) is None
    assert code_of(send(room, "drain_device", None, device_id="cpu:0")) == "UNAUTHORIZED"


def test_the_configurations_switch_makes_no_admin_of_a_clients_key() -> None:
    room = Room()
    room.core.context.spec = msgspec.structs.replace(room.core.context.spec, admin=True)
    assert code_of(send(room, "drain_device", ADA, device_id="cpu:0")) == "UNAUTHORIZED"
    assert code_of(send(room, "drain_device", None, device_id="cpu:0")) is None


def test_a_key_that_is_admitted_no_more_is_refused_whatever_it_asks() -> None:
    room = Room()
    refused = answer(send(room, "ping", GONE, request_id="p"))
    assert (refused["error"]["code"], refused["request_id"]) == ("UNAUTHORIZED", "p")


def test_one_request_id_of_two_keys_is_two_commands() -> None:
    room = Room()
    first = assigned(send(room, "load_model", ADA, request_id="r", model_id="m", device_id="cpu:0"))
    second = assigned(send(room, "load_model", BOB, request_id="r", model_id="n", device_id="cpu:1"))
    assert len(first) == len(second) == 1
    assert first[0].header.request_id != second[0].header.request_id
    assert first[0].header.echo_id == second[0].header.echo_id == "r"
    room.finish(first[0])
    state = {sender.name: answer(send(room, "get_result", sender, target_request_id="r")) for sender in (ADA, BOB)}
    assert {name: reply["job_state"] for name, reply in state.items()} == {"ada": "final", "bob": "running"}
    assert answer(send(room, "get_result", ROOT, target_request_id="r"))["job_state"] == "unknown"
    assert answer(send(room, "cancel", ADA, target_request_id="r"))["outcome"] == "already_finished"


def test_the_same_command_of_one_key_is_a_repeat() -> None:
    room = Room()
    assert len(assigned(send(room, "load_model", ADA, request_id="r", model_id="m"))) == 1
    assert assigned(send(room, "load_model", ADA, request_id="r", model_id="m")) == []
    duplicate = answer(send(room, "load_model", ADA, request_id="r", model_id="n"))
    assert (duplicate["error"]["code"], duplicate["request_id"]) == ("DUPLICATE_REQUEST", "r")


def test_no_reply_shows_a_scope() -> None:
    room = Room()
    for action, fields in (
        ("ping", {"request_id": "a"}),
        ("ping", {}),
        ("list_devices", {"request_id": "b"}),
        ("load_model", {"request_id": "c", "model_id": "unknown"}),
        ("load_model", {"request_id": "d", "model_id": "m", "wait_for_completion": False}),
        ("get_vram_model_status", {"request_id": "e"}),
        ("explain", {"request_id": "f", "target_request_id": "d"}),
        ("get_result", {"request_id": "g", "target_request_id": "d"}),
    ):
        reply = answer(send(room, action, ADA, **fields))
        text = msgspec.json.encode(reply).decode()
        assert "AAAA" not in text
        assert "\\t" not in text
        assert reply["request_id"] == fields.get("request_id", reply["request_id"])


def test_a_key_at_its_limit_may_still_cancel_and_its_refused_id_stays_free() -> None:
    room = Room()
    room.core.context.quotas = Quotas(Quota(in_flight=1), {})
    (load,) = assigned(send(room, "load_model", ADA, request_id="1", model_id="m", device_id="cpu:0"))
    full = answer(send(room, "load_model", ADA, request_id="2", model_id="n", device_id="cpu:0"))
    assert (full["error"]["code"], full["error"]["retry_after_ms"]) == ("QUEUE_FULL", 1000)
    assert answer(send(room, "ping", ADA))["success"]
    assert answer(send(room, "cancel", ADA, target_request_id="1"))["outcome"] == "cancelling"
    room.finish(load)
    assert len(assigned(send(room, "load_model", ADA, request_id="2", model_id="n", device_id="cpu:0"))) == 1


def test_a_rate_beyond_a_keys_is_answered_with_its_id() -> None:
    room = Room()
    room.core.context.quotas = Quotas(Quota(burst=1, commands_per_second=1.0), {})
    assert answer(send(room, "ping", ADA))["success"]
    refused = answer(send(room, "ping", ADA, request_id="again"))
    assert (refused["error"]["code"], refused["error"]["retry_after_ms"]) == ("QUEUE_FULL", 1000)
    assert refused["request_id"] == "again"
    assert answer(send(room, "ping", BOB))["success"]
