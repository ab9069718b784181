"""What .NET and MessagePack-CSharp send by default means what the plain spelling means; the rest is refused by name."""

from __future__ import annotations

import enum
import random
import re
from typing import Any

import msgspec
import pytest
import wire_strategies as wire
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec import NODEFAULT
from msgspec import inspect as mi

from protocol import commands as c
from protocol.actions import ACTIONS
from protocol.codec import Decoded, Refused, decode_command, shown_by
from protocol.dialect import camel, pascal
from protocol.enums import ComponentRole, Encoding, EnumForm, LoadPriority, ModelPrecision, Naming, WireEnum
from protocol.errors import ErrorCode
from protocol.tolerant import MOST_WARNINGS

JSON, MSGPACK = Encoding.JSON, Encoding.MSGPACK
SPEND = settings(
    max_examples=4,
    phases=(Phase.generate,),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)


def encoded(value: Any, encoding: Encoding) -> bytes:
    return msgspec.json.encode(value) if encoding is JSON else msgspec.msgpack.encode(value)


def decoded(value: Any, encoding: Encoding = JSON) -> Decoded:
    return decode_command(encoded(value, encoding))


def refused(payload: Any, encoding: Encoding = JSON) -> Refused:
    with pytest.raises(Refused) as caught:
        decode_command(payload if isinstance(payload, bytes) else encoded(payload, encoding))
    return caught.value


def snake_case_lower(name: str) -> str:
    """System.Text.Json's SnakeCaseLower, near enough: a break before each word's capital."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


SPELLERS = {
    "pascal": pascal,
    "camel": camel,
    "snake_case_lower": lambda name: snake_case_lower(pascal(name)),
    "shouted": str.upper,
    "flat": lambda name: name.replace("_", ""),
}


class Host:
    """Writes a command as a host might: each choice that the contract tolerates is made by `chance`."""

    def __init__(self, chance: random.Random, speller: str) -> None:
        self._chance = chance
        self._spell = SPELLERS[speller]

    def write(self, value: Any) -> Any:
        if isinstance(value, msgspec.Struct):
            out: dict[str, Any] = {}
            if isinstance(value, c.Command):
                out[self._spell("action")] = value.__struct_config__.tag
            for field in wire.fields(type(value)):
                out[self._spell(field.name)] = self._field(field, getattr(value, field.name))
            return out
        if isinstance(value, WireEnum):
            return self._chance.choice([value.value, str(value.value).lower(), value.ordinal, float(value.ordinal)])
        if isinstance(value, enum.Enum):
            return self._chance.choice([value.value, str(value.value).upper()])
        if isinstance(value, list):
            return [self.write(item) for item in value]
        return value

    def _field(self, field: mi.Field, value: Any) -> Any:
        if not field.required and value == default_of(field) and self._chance.random() < 0.5:
            return None
        if isinstance(field.type, mi.AnyType | mi.DictType):
            return value
        if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**50:
            return self._chance.choice([value, float(value)])
        whole = isinstance(value, float) and value.is_integer() and 0 <= value < 10**8
        if field.name in {"timeout_seconds", "keep_alive"} and whole:
            return self._chance.choice([value, timespan(int(value))])
        return self.write(value)


def default_of(field: mi.Field) -> Any:
    return field.default if field.default is not NODEFAULT else field.default_factory()


def timespan(seconds: int) -> str:
    days, rest = divmod(seconds, 86_400)
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days}.{clock}" if days else clock


def valid_commands(action: str) -> st.SearchStrategy[c.Command]:
    """Commands of an action that pass every limit."""
    fixed: dict[str, st.SearchStrategy[Any]] = {
        "request_id": st.none() | st.just("r-1"),
        "timeout_seconds": st.none() | st.sampled_from([0.0, 5.0, 90.0, 300.0, 100_000.0, 1.5]),
        "attachments": st.just([]),
        "model_id": st.just("a.model"),
        "model_path": st.just("/models/a"),
        "device_id": st.sampled_from(["cpu:0", "cuda:1"]),
        "page": st.integers(1, 9),
        "page_size": st.integers(1, 1000),
        "min_rating": st.none() | st.floats(0, 5),
        "keep_alive": st.sampled_from([-1.0, 0.0, 30.0, 90_061.0]),
        "prompt": st.text(max_size=5),
        "width": st.none() | st.just(64),
        "height": st.none() | st.just(8192),
        "steps": st.none() | st.integers(1, 10_000),
        "num_images": st.integers(1, 64),
        "seed": st.none() | st.integers(0, 2**49),
        "guidance_scale": st.none() | st.floats(0, 50),
        "strength": st.none(),
        "target_request_id": st.just("r-0"),
        "component": st.sampled_from(ComponentRole),
        "warmup_runs": st.integers(0, 10_000),
        "benchmark_runs": st.integers(1, 10_000),
        "optimization_target": st.none(),
    }
    if action == "benchmark_model":
        fixed["configuration"] = st.just(c.ModelBenchmarkConfiguration(input_width=64, batch_size=2))
    elif action in {"load_model", "plan"}:
        fixed["configuration"] = st.none() | wire.structs(c.ModelLoadConfiguration).map(_within_a_device)
    elif action == "optimize_model":
        fixed["target"] = st.sampled_from(c.ModelOptimizationTarget)
    cls = ACTIONS[action].command
    chosen = {name: strategy for name, strategy in fixed.items() if name in cls.__struct_fields__}

    def build(command: Any, **values: Any) -> Any:
        return msgspec.structs.replace(command, **values)

    return st.builds(build, wire.structs(cls), **chosen)


def _within_a_device(configuration: c.ModelLoadConfiguration) -> c.ModelLoadConfiguration:
    memory = msgspec.structs.replace(configuration.memory_optimization, memory_fraction=0.5)
    return msgspec.structs.replace(configuration, memory_optimization=memory)


@pytest.mark.parametrize("action", ACTIONS)
@SPEND
@given(data=st.data(), seed=st.integers(0, 2**32))
def test_any_default_spelling_of_a_command_means_what_the_plain_one_means(
    action: str, data: st.DataObject, seed: int
) -> None:
    command = data.draw(valid_commands(action))
    for encoding in Encoding:
        plain = decode_command(encoded(command, encoding))
        assert plain.command == command
        assert plain.shown is None
        for speller in SPELLERS:
            told = decoded(Host(random.Random(seed), speller).write(command), encoding)
            assert told.command == command, speller
            assert told.warnings == []


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(
    ("fields", "field", "value"),
    [
        ({"Priority": 2}, "priority", LoadPriority.High),
        ({"priority": "hIGH"}, "priority", LoadPriority.High),
        ({"priority": 3.0}, "priority", LoadPriority.Critical),
        ({"Priority": None}, "priority", LoadPriority.Normal),
        ({"TimeoutSeconds": "00:05:00"}, "timeout_seconds", 300.0),
        ({"TimeoutSeconds": "1.02:03:04.5000000"}, "timeout_seconds", 93_784.5),
        ({"timeout_seconds": "00:05"}, "timeout_seconds", 300.0),
        ({"TimeoutSeconds": 300}, "timeout_seconds", 300.0),
        ({"KeepAlive": "00:00:30.2500000"}, "keep_alive", 30.25),
        ({"keepAlive": -1}, "keep_alive", -1.0),
        ({"WaitForCompletion": None}, "wait_for_completion", True),
        ({"Configuration": None}, "configuration", None),
        (
            {"Configuration": {"Precision": 2, "MemoryOptimization": None}},
            "configuration",
            c.ModelLoadConfiguration(precision=ModelPrecision.Float16),
        ),
    ],
)
def test_what_dotnet_writes_for_a_value_is_understood(
    encoding: Encoding, fields: dict[str, Any], field: str, value: Any
) -> None:
    told = decoded({"Action": "load_model", "ModelId": "m"} | fields, encoding)
    assert getattr(told.command, field) == value
    assert told.warnings == []


def test_a_byte_order_mark_and_white_space_are_skipped() -> None:
    for start in (b"\xef\xbb\xbf", b" \r\n\t", b"\xef\xbb\xbf  "):
        assert decode_command(start + b'{"action":"ping"}').command == c.Ping()


@pytest.mark.parametrize("name", ["enable_tensor_rt", "enableTensorRt", "EnableTensorRT", "enable_tensorrt"])
def test_an_acronym_is_known_in_every_spelling(name: str) -> None:
    told = decoded(
        {"action": "load_model", "model_id": "m", "configuration": {"performance_optimization": {name: True}}}
    )
    assert isinstance(told.command, c.LoadModel)
    assert told.command.configuration is not None
    assert told.command.configuration.performance_optimization.enable_tensor_rt
    assert told.warnings == []


@pytest.mark.parametrize("word", ["get_model", "GetModel", "getModelInfo", "GET_MODEL_INFO"])
def test_an_action_is_known_by_its_aliases_in_any_case(word: str) -> None:
    assert isinstance(decoded({"action": word, "model_id": "m"}).command, c.GetModelInfo)


@pytest.mark.parametrize("encoding", Encoding)
def test_keys_of_free_content_stay_as_they_were_sent(encoding: Encoding) -> None:
    metadata = {"SourceUrl": "http://a", "Nested": {"DeepKey": [1, None, 2.5]}}
    told = decoded({"Action": "update_metadata", "ModelId": "m", "Metadata": metadata}, encoding)
    assert isinstance(told.command, c.UpdateMetadata)
    assert told.command.metadata == metadata


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"model_idd": 1}, "unknown field 'model_idd' is ignored; the nearest known name is 'model_id'"),
        ({"ForceUnloading": 1}, "unknown field 'ForceUnloading' is ignored; the nearest known name is 'force_unload'"),
        ({"qqqqqqqqqqq": 1}, "unknown field 'qqqqqqqqqqq' is ignored"),
        (
            {"conventions": {"namings": "snake"}},
            "unknown field 'conventions.namings' is ignored; the nearest known name is 'naming'",
        ),
    ],
)
def test_an_unknown_field_is_ignored_and_named_with_the_nearest_known_name(
    fields: dict[str, Any], warning: str
) -> None:
    told = decoded({"action": "unload_model", "model_id": "m"} | fields)
    assert told.warnings == [warning]
    assert told.command.device_id == ""


def test_of_a_payload_of_nothing_but_unknown_names_the_first_are_named_and_few_are_searched() -> None:
    names = [f"devicf_id{index}" for index in range(20_000)]
    told = decoded({"action": "ping"} | dict.fromkeys(names, 1))
    assert len(told.warnings) == MOST_WARNINGS + 1
    assert told.warnings[-1].startswith(f"{len(names) - MOST_WARNINGS} more")
    assert 0 < sum("nearest" in warning for warning in told.warnings) <= 32


def test_a_field_given_in_two_spellings_counts_last_and_warns() -> None:
    told = decoded({"action": "ping", "DeviceId": "cpu:0", "device_id": "cpu:1"})
    assert told.command.device_id == "cpu:1"
    assert told.warnings == ["field 'device_id' is given twice: the last one counts"]


def test_of_one_key_twice_the_last_counts() -> None:
    for action in (b"ping", b"PING"):
        told = decode_command(b'{"action":"%s","device_id":"a","device_id":"b"}' % action)
        assert told.command.device_id == "b"


WRONG = [
    ("load_model", {"model_id": 5}, "model_id is 5: expected text"),
    ("load_model", {"model_id": ["m"]}, "model_id is ['m']: expected text"),
    ("load_model", {"model_id": "m", "force": "yes"}, "force is 'yes': expected true or false"),
    ("load_model", {"model_id": "m", "force": 1}, "force is 1: expected true or false"),
    ("list_models", {"page": "1"}, "page is '1': expected an integer"),
    ("list_models", {"page": 1.5}, "page is 1.5: expected an integer"),
    ("list_models", {"page": True}, "page is True: expected an integer"),
    ("list_models", {"page": 2**63}, "page is 9223372036854775808: expected an integer of 64 bits"),
    ("search_models", {"min_rating": "5"}, "min_rating is '5': expected a finite number"),
    ("search_models", {"min_rating": False}, "min_rating is False: expected a finite number"),
    ("search_models", {"tags": "a"}, "tags is 'a': expected a list"),
    ("search_models", {"tags": ["a", 1]}, "tags[1] is 1: expected text"),
    ("search_models", {"model_types": ["SD15", "SD99"]}, "model_types[1] is 'SD99': expected one of Unknown, SD15"),
    ("search_models", {"model_types": [77]}, "model_types[0] is 77: expected one of Unknown, SD15"),
    ("search_models", {"sort_by": -1}, "sort_by is -1: expected one of Name, Type"),
    ("search_models", {"sort_by": 1.5}, "sort_by is 1.5: expected one of Name, Type"),
    ("search_models", {"sort_by": True}, "sort_by is True: expected one of Name, Type"),
    ("update_metadata", {"model_id": "m", "metadata": [1]}, "metadata is [1]: expected an object"),
    ("load_model", {"model_id": "m", "configuration": "x"}, "configuration is 'x': expected an object"),
    (
        "load_model",
        {"model_id": "m", "configuration": {"memory_optimization": {"memory_fraction": "1"}}},
        "configuration.memory_optimization.memory_fraction is '1': expected a finite number",
    ),
    (
        "load_model",
        {"model_id": "m", "coordination_mode": "x"},
        "coordination_mode is 'x': expected one of ram",
    ),
    ("load_model", {"model_id": "m", "loading_strategy": 1}, "loading_strategy is 1: expected one of default"),
    (
        "load_model",
        {"model_id": "m", "timeout_seconds": "soon"},
        "timeout_seconds is 'soon': expected seconds",
    ),
    (
        "load_model",
        {"model_id": "m", "timeout_seconds": "9" * 5000 + ".00:00:00"},
        "timeout_seconds is '9999",
    ),
    ("load_model", {"model_id": "m", "keep_alive": [1]}, "keep_alive is [1]: expected a finite number"),
    (
        "validate_model",
        {"model_id": "m", "validation_level": "deep"},
        "validation_level is 'deep': expected one of",
    ),
    (
        "benchmark_model",
        {"model_id": "m", "benchmark_type": "Speed"},
        "benchmark_type is 'Speed': expected one of",
    ),
    ("generate", {"model_id": "m", "prompt": "p", "loras": [{"name": 1}]}, "loras[0].name is 1: expected text"),
    ("ping", {"conventions": {"naming": "kebab"}}, "conventions.naming is 'kebab': expected one of snake, camel"),
    ("ping", {"attachments": [{"name": "a", "bytes": -1.5}]}, "attachments[0].bytes is -1.5: expected an integer"),
    ("ping", {"request_id": 7}, "request_id is 7: expected text"),
]


@pytest.mark.parametrize(("action", "fields", "message"), WRONG)
def test_a_wrong_type_is_refused_with_its_field_and_value(action: str, fields: dict[str, Any], message: str) -> None:
    refusal = refused({"action": action} | fields)
    assert refusal.fault.code is ErrorCode.INVALID_ARGUMENT
    assert refusal.fault.message.startswith(message)
    assert refusal.action == action
    assert not refusal.fault.retryable


@pytest.mark.parametrize(
    ("action", "fields", "field"),
    [
        ("generate", {"model_id": "m", "prompt": "p", "loras": [{"scale": 1}]}, "loras[0].name"),
        ("generate", {"model_id": "m", "prompt": "p", "attachments": [{"name": "a"}]}, "attachments[0].bytes"),
        ("generate", {"model_id": "m", "prompt": "p", "loras": [{"name": None}]}, "loras[0].name"),
    ],
)
def test_a_required_part_that_is_absent_or_null_is_named(action: str, fields: dict[str, Any], field: str) -> None:
    refusal = refused({"action": action} | fields)
    assert refusal.fault.code is ErrorCode.MISSING_PARAMETER
    assert refusal.fault.message == f"{field} is required"


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("key", ["request_id", "RequestId", "requestId", "REQUEST_ID"])
@pytest.mark.parametrize(
    "rest",
    [
        {"action": "ping", "priority": "x"},
        {"action": "no_such_action"},
        {"action": 5},
        {},
        {"action": "load_model"},
        {"action": "list_models", "page": 0},
        {"action": "list_models", "page": 2**63},
    ],
)
def test_the_request_id_is_known_when_the_rest_is_invalid(encoding: Encoding, key: str, rest: dict[str, Any]) -> None:
    assert refused({key: "r-7"} | rest, encoding).request_id == "r-7"


@pytest.mark.parametrize(
    ("payload", "code", "text"),
    [
        ({}, ErrorCode.MISSING_PARAMETER, "action is required"),
        ({"action": None}, ErrorCode.MISSING_PARAMETER, "action is required"),
        ({"action": ""}, ErrorCode.MISSING_PARAMETER, "action is required"),
        ({"action": ["ping"]}, ErrorCode.INVALID_ARGUMENT, "action is ['ping']: expected text"),
        ({"action": "pong"}, ErrorCode.UNKNOWN_ACTION, "action is 'pong'"),
        (b"[1]", ErrorCode.MALFORMED_MESSAGE, "received a JSON array: send one JSON object or one MessagePack map"),
        (b"\x93\x01\x02\x03", ErrorCode.MALFORMED_MESSAGE, "received a MessagePack array: send one JSON object"),
        (b"\xdc\x00\x00", ErrorCode.MALFORMED_MESSAGE, "received a MessagePack array: send one JSON object"),
        (b"", ErrorCode.MALFORMED_MESSAGE, "received an empty payload"),
        (b"\x05", ErrorCode.MALFORMED_MESSAGE, "received a payload that begins with byte 0x05"),
        (b'"text"', ErrorCode.MALFORMED_MESSAGE, "received a payload that begins with byte 0x22"),
        (b"{", ErrorCode.MALFORMED_MESSAGE, "the payload is not valid JSON"),
        (b'{"action":"ping"} x', ErrorCode.MALFORMED_MESSAGE, "the payload is not valid JSON"),
        (b'{"action":"ping","a":NaN}', ErrorCode.MALFORMED_MESSAGE, "the payload is not valid JSON"),
        (b'{"action":"ping","a":1e999}', ErrorCode.MALFORMED_MESSAGE, "the payload is not valid JSON"),
        (b'{"action":"\xff"}', ErrorCode.MALFORMED_MESSAGE, "the payload is not valid JSON"),
        (b"\x81", ErrorCode.MALFORMED_MESSAGE, "the payload is not valid MessagePack"),
        (b"\x81\xa1\xff\x01", ErrorCode.MALFORMED_MESSAGE, "the payload is not valid MessagePack"),
    ],
)
def test_a_payload_that_is_no_command_is_refused_in_words(payload: Any, code: ErrorCode, text: str) -> None:
    refusal = refused(payload)
    assert refusal.fault.code is code
    assert refusal.fault.message.startswith(text)
    assert refusal.request_id is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("action", "fields", "field"),
    [
        ("ping", {"timeout_seconds": ...}, "timeout_seconds"),
        ("load_model", {"model_id": "m", "keep_alive": ...}, "keep_alive"),
        ("search_models", {"min_rating": ...}, "min_rating"),
        ("generate", {"model_id": "m", "prompt": "p", "guidance_scale": ...}, "guidance_scale"),
        ("load_component", {"model_id": "m", "component": "lora", "scale": ...}, "scale"),
        ("generate", {"model_id": "m", "prompt": "p", "steps": ...}, "steps"),
        (
            "optimize_model",
            {"model_id": "m", "target": 1, "memory_pressure_context": {"cache_utilization": ...}},
            "memory_pressure_context.cache_utilization",
        ),
        ("optimize_model", {"model_id": "m", "target": 1, "parameters": {"a": [1, ...]}}, "parameters.a[1]"),
        ("update_metadata", {"model_id": "m", "metadata": {"x": {"y": ...}}}, "metadata.x.y"),
    ],
)
def test_a_number_that_is_not_finite_is_refused_by_name_in_msgpack(
    value: float, action: str, fields: dict[str, Any], field: str
) -> None:
    refusal = refused({"action": action} | _filled(fields, value), MSGPACK)
    assert refusal.fault.code is ErrorCode.INVALID_ARGUMENT
    assert refusal.fault.message.startswith(f"{field} is {value!r}: ")


def _filled(node: Any, value: float) -> Any:
    if node is ...:
        return value
    if isinstance(node, dict):
        return {key: _filled(item, value) for key, item in node.items()}
    return [_filled(item, value) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("digits", [20, 400, 4000])
@pytest.mark.parametrize(
    ("action", "rest", "field"),
    [
        ("generate", b'"model_id":"m","prompt":"p","seed":', "seed"),
        ("list_models", b'"page_size":', "page_size"),
        ("search_models", b'"max_memory_bytes":', "max_memory_bytes"),
        ("update_metadata", b'"model_id":"m","revision":', "revision"),
    ],
)
def test_an_integer_past_64_bits_is_refused_by_name(digits: int, action: str, rest: bytes, field: str) -> None:
    refusal = refused(b'{"action":"%s",%s%s}' % (action.encode(), rest, b"9" * digits))
    assert refusal.fault.code is ErrorCode.INVALID_ARGUMENT
    assert refusal.fault.message.startswith(f"{field} is 999")
    assert len(refusal.fault.message) < 200


def test_free_content_past_64_bits_is_refused_since_no_reply_could_say_it() -> None:
    start = b'{"action":"update_metadata","model_id":"m","metadata":{"seed":'
    assert decode_command(start + b"18446744073709551615}}").warnings == []
    refusal = refused(start + b"18446744073709551616}}")
    assert refusal.fault.message.startswith("metadata.seed is 18446744073709551616: expected a JSON value")


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({1: "a", "action": "ping"}, "key"),
        ({"action": "update_metadata", "model_id": "m", "metadata": {1: 2}}, "metadata key"),
        ({"action": "update_metadata", "model_id": "m", "metadata": {"a": {None: 2}}}, "metadata.a key"),
        ({"action": "update_metadata", "model_id": "m", "metadata": {"a": b"raw"}}, "metadata.a"),
        ({"action": "update_metadata", "model_id": "m", "metadata": {"a": msgspec.msgpack.Ext(5, b"x")}}, "metadata.a"),
    ],
)
def test_what_json_cannot_say_is_refused_by_name_in_msgpack(value: Any, field: str) -> None:
    refusal = refused(value, MSGPACK)
    assert refusal.fault.code is ErrorCode.INVALID_ARGUMENT
    assert refusal.fault.message.startswith(f"{field} is ")


SHOWN: list[tuple[dict[str, Any], Naming | None, EnumForm | None]] = [
    ({"action": "ping"}, None, None),
    ({"action": "ping", "priority": "High"}, None, EnumForm.NAME),
    ({"action": "ping", "request_id": "r"}, Naming.SNAKE, None),
    ({"action": "ping", "requestId": "r"}, Naming.CAMEL, None),
    ({"Action": "ping"}, Naming.PASCAL, None),
    ({"Action": "ping", "Priority": 1}, Naming.PASCAL, EnumForm.NUMBER),
    ({"action": "ping", "requestId": "r", "priority": 1.0}, Naming.CAMEL, EnumForm.NUMBER),
    ({"action": "search_models", "sort_by": "Name", "model_types": ["SD15", 2]}, Naming.SNAKE, EnumForm.NUMBER),
    ({"action": "load_model", "model_id": "m", "loading_strategy": "fast"}, Naming.SNAKE, None),
    ({"action": "load_model", "model_id": "m", "configuration": {"Precision": 2}}, Naming.SNAKE, EnumForm.NUMBER),
    ({"action": "ping", "Priority": None}, Naming.PASCAL, None),
]


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(("message", "naming", "enums"), SHOWN)
def test_a_message_shows_its_naming_and_enum_form(
    message: dict[str, Any], naming: Naming | None, enums: EnumForm | None, encoding: Encoding
) -> None:
    payload = encoded(message, encoding)
    told = decode_command(payload)
    shown = told.shown or shown_by(payload, encoding)
    assert (shown.naming, shown.enums) == (naming, enums)


def test_a_refused_message_shows_its_conventions_too() -> None:
    refusal = refused({"Action": "load_model", "RequestId": "r", "Priority": 2, "Force": "x"})
    assert refusal.shown is not None
    assert (refusal.shown.naming, refusal.shown.enums) == (Naming.PASCAL, EnumForm.NUMBER)
    assert (refusal.request_id, refusal.action) == ("r", "load_model")
