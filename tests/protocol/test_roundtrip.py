"""Replies survive the wire in every encoding, naming and enum form."""

from __future__ import annotations

import itertools
import re
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
import wire_strategies as wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol import replies as r
from protocol.actions import ACTIONS
from protocol.codec import decode_command, decode_reply, encode_command, encode_reply
from protocol.enums import Encoding, EnumForm, JobState, LoadSource, ModelPrecision, ModelStatus, ModelType, Naming
from protocol.link import Spelling
from protocol.records import ModelMemoryUsage

SPELLINGS = [
    Spelling(encoding=encoding, naming=naming, enums=enums)
    for encoding, naming, enums in itertools.product(Encoding, Naming, EnumForm)
]
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
QUICK = settings(
    max_examples=10,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def builtins(payload: bytes, spelling: Spelling) -> Any:
    if spelling.encoding is Encoding.JSON:
        return msgspec.json.decode(payload)
    return msgspec.msgpack.decode(payload)


def assert_survives(reply: r.Reply) -> None:
    for spelling in SPELLINGS:
        assert decode_reply(encode_reply(reply, spelling)) == reply, spelling


@pytest.mark.parametrize("action", ACTIONS)
@QUICK
@given(data=st.data())
def test_every_final_reply_survives_every_spelling(action: str, data: st.DataObject) -> None:
    assert_survives(data.draw(wire.final_replies(action)))


@settings(QUICK, max_examples=25)
@given(wire.failed_replies() | wire.partial_replies())
def test_failed_accepted_and_progress_replies_survive_every_spelling(reply: r.Reply) -> None:
    assert_survives(reply)


@pytest.mark.parametrize("action", ACTIONS)
def test_a_command_that_a_client_encodes_has_the_meaning_it_had(action: str) -> None:
    command = _plain_command(action)
    for spelling in SPELLINGS:
        payload = encode_command(command, spelling.encoding, spelling.naming, spelling.enums)
        decoded = decode_command(payload)
        assert decoded.command == command
        assert decoded.warnings == []


def _plain_command(action: str) -> Any:
    needed = {
        "model_id": "m",
        "model_path": "/m",
        "prompt": "a",
        "target_request_id": "t",
        "component": "vae",
        "target": "Memory",
        "device_id": "cpu:0",
    }
    cls = ACTIONS[action].command
    return msgspec.convert({k: v for k, v in needed.items() if k in cls.__struct_fields__} | {"action": action}, cls)


def load_reply() -> r.LoadModelReply:
    return r.LoadModelReply(
        request_id="r1",
        action="load_model",
        device_id="cpu:0",
        model_id="m",
        memory_usage=7,
        memory_added=5,
        load_time=1.5,
        load_time_ms=1.5,
        memory=ModelMemoryUsage(model_memory_bytes=7, total_memory_bytes=9),
        optimizations_applied=["precision"],
        loaded_at=NOW,
        options=[
            r.OptionOutcome(
                option="precision",
                requested=ModelPrecision.Float16.value,
                applied=True,
                evidence={"bytes_before": 2, "nested_key": {"deep_key": 1}},
            )
        ],
        cache=r.LoadCache(source=LoadSource.DISK),
    )


def list_reply() -> r.ListModelsReply:
    return r.ListModelsReply(
        request_id="r1",
        action="list_models",
        models=[],
        total_count=2,
        page=1,
        page_size=20,
        total_pages=1,
        type_distribution={ModelType.SD15: 2},
        status_distribution={ModelStatus.Available: 2},
    )


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_load_has_the_number_in_snake_alone_and_the_record_in_the_host_dialects(spelling: Spelling) -> None:
    told = builtins(encode_reply(load_reply(), spelling), spelling)
    if spelling.naming is Naming.SNAKE:
        assert told["memory_usage"] == 7
        assert told["memory"]["model_memory_bytes"] == 7
        return
    pascal = spelling.naming is Naming.PASCAL
    record = told["MemoryUsage" if pascal else "memoryUsage"]
    assert record["ModelMemoryBytes" if pascal else "modelMemoryBytes"] == 7
    assert "Memory" not in told
    assert "memory" not in told


@pytest.mark.parametrize("spelling", [s for s in SPELLINGS if s.naming is not Naming.SNAKE])
def test_keys_of_a_dict_are_data_and_keep_their_spelling(spelling: Spelling) -> None:
    told = builtins(encode_reply(load_reply(), spelling), spelling)
    options = told["Options" if spelling.naming is Naming.PASCAL else "options"]
    evidence = options[0]["Evidence" if spelling.naming is Naming.PASCAL else "evidence"]
    assert evidence == {"bytes_before": 2, "nested_key": {"deep_key": 1}}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_map_keyed_by_an_enum_has_names_in_json_and_follows_the_conventions_in_msgpack(spelling: Spelling) -> None:
    told = builtins(encode_reply(list_reply(), spelling), spelling)
    key = {Naming.SNAKE: "type_distribution", Naming.CAMEL: "typeDistribution", Naming.PASCAL: "TypeDistribution"}
    by_number = spelling.encoding is Encoding.MSGPACK and spelling.enums is EnumForm.NUMBER
    assert told[key[spelling.naming]] == {1 if by_number else "SD15": 2}


@given(st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 2)))
@settings(max_examples=50, database=None)
def test_json_datetimes_end_in_z_with_at_most_six_fraction_digits(moment: datetime) -> None:
    reply = r.PingReply(request_id="r", action="ping", time=moment, epoch="e")
    for spelling in SPELLINGS:
        told = builtins(encode_reply(reply, spelling), spelling)
        shown = told["Time" if spelling.naming is Naming.PASCAL else "time"]
        if spelling.encoding is Encoding.MSGPACK:
            assert isinstance(shown, datetime)
            assert shown == moment
        else:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z", shown)


def test_a_reply_of_a_dotnet_clock_with_seven_fraction_digits_is_read() -> None:
    text = b'{"action":"ping","state":"completed","request_id":"r","epoch":"e","time":"2026-01-02T03:04:05.6789012Z"}'
    assert decode_reply(text).time == NOW.replace(microsecond=678901)  # type: ignore[attr-defined]


def test_enums_stand_by_number_in_values_where_the_conventions_say_so() -> None:
    spelling = Spelling(encoding=Encoding.JSON, naming=Naming.PASCAL, enums=EnumForm.NUMBER)
    reply = r.GetVramModelStatusReply(
        request_id="r",
        action="get_vram_model_status",
        models=[],
        used_vram=0,
        available_vram=1,
        total_vram=1,
        status=ModelStatus.Loaded,
        status_description="",
        health_score=1.0,
        last_updated=NOW,
        devices=[],
    )
    told = builtins(encode_reply(reply, spelling), spelling)
    assert told["Status"] == ModelStatus.Loaded.ordinal
    assert told["State"] == "completed"


@pytest.mark.parametrize("nested", [load_reply(), list_reply()], ids=["load_model", "list_models"])
def test_a_stored_result_is_spelled_as_the_get_result_that_brings_it(nested: r.Reply) -> None:
    job_state = JobState.FINAL
    reply = r.GetResultReply(
        request_id="r2", action="get_result", target_request_id="r1", job_state=job_state, result=nested
    )
    assert_survives(reply)
    for spelling in SPELLINGS:
        inner = builtins(encode_reply(nested, spelling), spelling)
        told = builtins(encode_reply(reply, spelling), spelling)
        assert told["Result" if spelling.naming is Naming.PASCAL else "result"] == inner
