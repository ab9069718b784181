"""Bytes from anyone parse or raise exactly one error type."""

from __future__ import annotations

import random
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from protocol.codec import Decoded, Refused, decode_command, decode_reply, encode_reply, shown_by
from protocol.enums import Encoding, EnumForm, Naming
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import Spelling
from protocol.replies import FailedReply, Reply

MANY = settings(
    max_examples=1000,
    phases=(Phase.explicit, Phase.generate),
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
COMMANDS: list[dict[str, Any]] = [
    {"action": "ping", "request_id": "r", "priority": "High", "timeout_seconds": 5},
    {
        "Action": "LoadModel",
        "ModelId": "m",
        "Configuration": {"Precision": 2, "MemoryOptimization": {"MemoryFraction": 0.5}, "Parameters": {"a": [1, {}]}},
        "TimeoutSeconds": "00:05:00.0000000",
        "KeepAlive": -1,
    },
    {"action": "search_models", "search_fields": ["Name", 1], "model_types": [2], "min_rating": None, "page": 1.0},
    {"action": "generate", "model_id": "m", "prompt": "ü", "loras": [{"name": "a", "scale": 1}], "seed": 2**62},
    {"action": "update_metadata", "model_id": "m", "metadata": {"tags": ["a"], "x": {"y": [None, True, 1.5, "t"]}}},
    {"action": "optimize_model", "model_id": "m", "target": 1, "memory_pressure_context": {"cache_utilization": 5}},
]
STRANGE: list[Any] = [
    msgspec.msgpack.Ext(5, b"x"),
    b"raw",
    float("nan"),
    float("inf"),
    2**64 - 1,
    -(2**63),
    "\x00",
    {1: 2},
    {None: [b""]},
    [],
    "9" * 6000 + ".00:00:00",
    "9" * 400 + ".00:00:00",
    "00:00:00\n",
]


@cache
def valid_payloads() -> list[bytes]:
    fault = ErrorInfo(code=ErrorCode.TIMEOUT, message="late", retryable=True)
    failed = FailedReply(request_id="r", action="ping", error=fault)
    replies = [encode_reply(failed, Spelling(encoding=e, naming=n)) for e in Encoding for n in Naming]
    return [
        encode(command) for command in COMMANDS for encode in (msgspec.json.encode, msgspec.msgpack.encode)
    ] + replies


def assert_no_other_error(payload: bytes) -> None:
    try:
        told = decode_command(payload)
    except Refused as refused:
        assert 0 < len(refused.fault.message) < 2000
        assert_can_be_answered(refused)
    else:
        assert isinstance(told, Decoded)
        if told.shown is None:
            shown_by(payload, told.encoding)
    try:
        reply = decode_reply(payload)
    except Fault as fault:
        assert fault.code in {
            ErrorCode.MALFORMED_MESSAGE,
            ErrorCode.INVALID_ARGUMENT,
            ErrorCode.MISSING_PARAMETER,
        }
    else:
        assert isinstance(reply, Reply)


def assert_can_be_answered(refused: Refused) -> None:
    """Whatever was refused, its refusal can be written in any spelling."""
    reply = FailedReply(
        request_id=refused.request_id, action=refused.action, error=refused.fault, warnings=refused.warnings
    )
    for encoding in Encoding:
        encode_reply(reply, Spelling(encoding=encoding, naming=Naming.PASCAL, enums=EnumForm.NUMBER))


@settings(MANY)
@given(st.binary(max_size=200))
@example(b"")
@example(b"\xef\xbb\xbf")
@example(b"\x80")
@example(b"\xde\x00\x00")
@example(b"\xdf\xff\xff\xff\xff")
@example(b'{"action":"ping","request_id":"\\ud800"}')
@example(b'{"action":"ping","\\ud83d\\ude00":1}')
@example(b'{"action":"load_model"' + b',"memory_usage":{}' * 2 + b"}")
def test_any_bytes_decode_or_are_refused(payload: bytes) -> None:
    assert_no_other_error(payload)


@settings(MANY)
@given(st.integers(0, 2**40), st.integers(1, 4))
def test_any_mutation_of_a_valid_payload_decodes_or_is_refused(seed: int, mutations: int) -> None:
    chance = random.Random(seed)
    payload = bytearray(chance.choice(valid_payloads()))
    for _ in range(mutations):
        mutate(payload, chance)
    assert_no_other_error(bytes(payload))


def mutate(payload: bytearray, chance: random.Random) -> None:
    at = chance.randrange(len(payload) + 1)
    match chance.randrange(4):
        case 0 if at < len(payload):
            payload[at] = chance.randrange(256)
        case 1:
            payload[at:at] = chance.choice([b"\xc1", b'"', b"{", b"]", b"\xff", b"9" * 30, b"null", b"\xcb\x7f\xf8"])
        case 2:
            del payload[at : at + chance.randrange(1, 6)]
        case _:
            payload.extend(payload[at : at + 8])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
) | st.sampled_from(STRANGE)


@settings(MANY)
@given(st.sampled_from(COMMANDS), st.data())
def test_any_value_in_any_field_decodes_or_is_refused(command: dict[str, Any], data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(list(command)))
    assert_no_other_error(msgspec.msgpack.encode(command | {key: data.draw(ANYTHING)}))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"action":"load_model","state":"completed"}',
        b'{"action":"load_model","state":"completed","MemoryUsage":{}}',
        b'{"action":"load_model","state":"completed","memory_usage":{"1":2}}',
        b'{"action":"get_result","state":"completed","request_id":"r","target_request_id":"t","job_state":"final",'
        b'"result":5}',
        b'{"action":["ping"],"state":"completed"}',
        b'{"action":"ping","state":["completed"]}',
        b'{"action":"ping","state":"done"}',
        b'{"state":"failed","request_id":"r","action":"x","error":{"code":5}}',
        b"[]",
        b"",
        b'{"action":"ping","state":"completed","request_id":"r","epoch":"e","time":"yesterday"}',
    ],
)
def test_a_reply_that_is_none_is_a_fault(payload: bytes) -> None:
    with pytest.raises(Fault):
        decode_reply(payload)


def test_a_result_that_holds_results_without_end_is_a_fault() -> None:
    start = b'{"action":"get_result","state":"completed","request_id":"r","target_request_id":"t",'
    start += b'"job_state":"final","result":'
    with pytest.raises(Fault):
        decode_reply(start * 3000 + b"null" + b"}" * 3000)
