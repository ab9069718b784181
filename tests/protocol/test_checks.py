"""On a limit everything works; one past it is refused with the limit in the text."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol import commands as c
from protocol.actions import ACTIONS
from protocol.checks import check_attachments, optimization_target, valid_request_id
from protocol.codec import Decoded, Refused, decode_command
from protocol.commands import Attachment, OptimizeModel
from protocol.drawing import Mode, given
from protocol.enums import Encoding, ModelOptimizationTarget, OptimizationTargetWord
from protocol.errors import ErrorCode, Fault
from protocol.replies import Limits

GENERATE = {"action": "generate", "model_id": "m", "prompt": "p"}
BENCHMARK = {"action": "benchmark_model", "model_id": "m"}
LOAD = {"action": "load_model", "model_id": "m"}
LIST, SEARCH, PING = {"action": "list_models"}, {"action": "search_models"}, {"action": "ping"}
REGISTER = {"action": "register_model", "model_path": "/m"}
ONE_IMAGE = {"attachments": [{"name": "image-0", "bytes": 3}]}

# command, field (dotted), values that work, values refused, what the refusal says
TABLE: list[tuple[dict[str, Any], str, list[Any], list[Any], str]] = [
    (LIST, "page", [1, 10**9], [0, -1], "at least 1"),
    (LIST, "page_size", [1, 1000], [0, 1001, -5], "1 to 1000"),
    (SEARCH, "page", [1], [0], "at least 1"),
    (SEARCH, "page_size", [1, 1000], [0, 1001], "1 to 1000"),
    (SEARCH, "min_rating", [0, 5, 2.5], [-0.1, 5.1], "0 to 5"),
    (GENERATE, "steps", [1, 10_000], [0, 10_001], "1 to 10000"),
    (GENERATE, "num_images", [1, 64], [0, 65], "1 to 64"),
    (GENERATE, "width", [8, 16, 8192], [0, 7, 12, 8200, -8], "8 to 8192 pixels, a multiple of 8"),
    (GENERATE, "height", [8, 8192], [9, 8193], "8 to 8192 pixels, a multiple of 8"),
    (GENERATE, "prompt", ["", "a" * 16_384, "é" * 8192], ["a" * 16_385, "é" * 8193], "at most 16384 bytes"),
    (GENERATE, "negative_prompt", ["a" * 16_384], ["a" * 16_385], "at most 16384 bytes"),
    (GENERATE, "guidance_scale", [0, 7.5], [-0.1], "at least 0"),
    (GENERATE, "seed", [0, 2**63 - 1], [-1], "0 to"),
    (GENERATE | ONE_IMAGE, "strength", [0, 1], [-0.01, 1.01], "0 to 1"),
    (BENCHMARK, "benchmark_runs", [1, 10_000], [0, 10_001], "1 to 10000"),
    (BENCHMARK, "warmup_runs", [0, 10_000], [-1, 10_001], "0 to 10000"),
    (BENCHMARK, "configuration.input_width", [8, 8192], [4, 8200], "8 to 8192 pixels, a multiple of 8"),
    (BENCHMARK, "configuration.input_height", [8, 8192], [20, 8200], "8 to 8192 pixels, a multiple of 8"),
    (BENCHMARK, "configuration.batch_size", [1, 64], [0, 65], "1 to 64"),
    (BENCHMARK, "configuration.inference_steps", [1, 10_000], [0, 10_001], "1 to 10000"),
    (LOAD, "keep_alive", [-1, 0, 0.5, 1e9], [-0.5, -2], "seconds of at least 0, or -1"),
    (LOAD, "configuration.memory_optimization.memory_fraction", [0, 0.5, 1], [-0.1, 1.1], "0 to 1"),
    (PING, "timeout_seconds", [0, 0.5, 1e9], [-1, -0.001], "at least 0"),
    (PING, "request_id", ["a", "!~", "a" * 128], ["", "a" * 129, "a b", "é", "a\n", "\x7f"], "1-128 printable ASCII"),
    (REGISTER, "model_id", ["a", "0" * 128, "a.b_c-D"], [".a", "-a", "a" * 129, "a/b", "a\n"], "letters, digits"),
    (LOAD | {"model_path": "/m"}, "model_id", ["a"], ["a b", "../a"], "letters, digits"),
]
WORKS = [
    pytest.param(command, field, value, id=f"{command['action']}.{field}={str(value)[:12]!a}")
    for command, field, works, _, _ in TABLE
    for value in works
]
FAILS = [
    pytest.param(command, field, value, text, id=f"{command['action']}.{field}={str(value)[:12]!a}")
    for command, field, _, fails, text in TABLE
    for value in fails
]


def with_value(command: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    *parents, last = field.split(".")
    inner: dict[str, Any] = {last: value}
    for parent in reversed(parents):
        inner = {parent: inner}
    return command | inner


def decoded(command: dict[str, Any], encoding: Encoding = Encoding.JSON) -> Decoded:
    return decode_command(
        msgspec.json.encode(command) if encoding is Encoding.JSON else msgspec.msgpack.encode(command)
    )


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(("command", "field", "value"), WORKS)
def test_on_a_limit_everything_works(command: dict[str, Any], field: str, value: Any, encoding: Encoding) -> None:
    assert decoded(with_value(command, field, value), encoding).warnings == []


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize(("command", "field", "value", "text"), FAILS)
def test_one_past_a_limit_is_refused_with_the_limit_in_the_text(
    command: dict[str, Any], field: str, value: Any, text: str, encoding: Encoding
) -> None:
    with pytest.raises(Refused) as caught:
        decoded(with_value({"request_id": "r"} | command, field, value), encoding)
    assert caught.value.fault.code is ErrorCode.INVALID_ARGUMENT
    assert caught.value.fault.message.startswith(f"{field} is ")
    assert text in caught.value.fault.message
    assert caught.value.fault.details == {"field": field}
    assert caught.value.action == command["action"]


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ({"action": "get_model_info"}, "model_id"),
        ({"action": "load_model"}, "model_id"),
        ({"action": "plan"}, "model_id"),
        ({"action": "unload_model", "model_id": ""}, "model_id"),
        ({"action": "pin_model"}, "model_id"),
        ({"action": "unpin_model"}, "model_id"),
        ({"action": "validate_model"}, "model_id"),
        ({"action": "optimize_model", "target": "Speed"}, "model_id"),
        ({"action": "optimize_model", "model_id": "m"}, "optimization_target"),
        ({"action": "benchmark_model"}, "model_id"),
        ({"action": "update_metadata"}, "model_id"),
        ({"action": "register_model"}, "model_path"),
        ({"action": "list_components"}, "model_id"),
        ({"action": "load_component", "component": "vae"}, "model_id"),
        ({"action": "load_component", "model_id": "m"}, "component"),
        ({"action": "unload_component", "model_id": "m"}, "component"),
        ({"action": "generate", "prompt": "p"}, "model_id"),
        ({"action": "generate", "model_id": "m"}, "prompt"),
        (GENERATE | {"strength": 0.5}, "attachments"),
        ({"action": "cancel"}, "target_request_id"),
        ({"action": "get_result"}, "target_request_id"),
        ({"action": "explain"}, "target_request_id"),
        ({"action": "drain_device"}, "device_id"),
        ({"action": "resume_device", "device_id": "auto"}, "device_id"),
        ({"action": "restart_worker"}, "device_id"),
    ],
)
def test_what_a_command_cannot_do_without_is_named(command: dict[str, Any], field: str) -> None:
    with pytest.raises(Refused) as caught:
        decoded(command)
    assert caught.value.fault.code is ErrorCode.MISSING_PARAMETER
    assert caught.value.fault.message.startswith(f"{field} ")
    assert caught.value.fault.details == {"field": field}


def test_a_model_of_a_path_alone_can_be_loaded_and_validated() -> None:
    for action in ("load_model", "plan", "validate_model"):
        assert decoded({"action": action, "model_path": "/m"}).warnings == []


@pytest.mark.parametrize(
    ("word", "target", "chosen"),
    [
        ("performance", None, "Speed"),
        ("speed", "Speed", "Speed"),
        ("Memory", 1, "Memory"),
        (None, "Quality", "Quality"),
        ("balanced", None, "Balanced"),
    ],
)
def test_the_seeds_word_and_the_hosts_target_name_one_target(word: Any, target: Any, chosen: str) -> None:
    told = decoded({"action": "optimize_model", "model_id": "m", "optimization_target": word, "target": target})
    assert isinstance(told.command, OptimizeModel)
    assert optimization_target(told.command) is ModelOptimizationTarget(chosen)


@pytest.mark.parametrize("word", [word for word in OptimizationTargetWord if word.value != "memory"])
def test_two_different_targets_are_refused(word: OptimizationTargetWord) -> None:
    with pytest.raises(Refused, match=r"optimization_target is .*: expected Memory, as target says"):
        decoded({"action": "optimize_model", "model_id": "m", "optimization_target": word.value, "target": "Memory"})


@pytest.mark.parametrize("spelled", ["update_metadata", "UpdateMetadata"])
@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("shape", ["objects", "lists"])
def test_64_levels_are_read_and_65_are_not(spelled: str, encoding: Encoding, shape: str) -> None:
    def nested(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels - 2):
            value = {"a": value} if shape == "objects" else [value]
        return {"action": spelled, "model_id": "m", "metadata": {"a": value}}

    assert decoded(nested(64), encoding).warnings == []
    with pytest.raises(Refused, match="nested deeper than 64 levels") as caught:
        decoded(nested(65), encoding)
    assert caught.value.fault.code is ErrorCode.MALFORMED_MESSAGE


@pytest.mark.parametrize("opening", [b'{"a":', b"[", b"\x81\xa1a", b"\x91"])
def test_a_nesting_bomb_is_refused(opening: bytes) -> None:
    start = b'{"action":"ping","x":' if opening in (b'{"a":', b"[") else b"\x82\xa6action\xa4ping\xa1x"
    with pytest.raises(Refused) as caught:
        decode_command(start + opening * 100_000)
    assert caught.value.fault.code is ErrorCode.MALFORMED_MESSAGE


@pytest.mark.parametrize("encoding", Encoding)
def test_a_payload_of_one_mebibyte_is_read_and_one_byte_more_is_not(encoding: Encoding) -> None:
    limit = 1 << 20

    def payload(size: int) -> bytes:
        for text in range(size - 200, size):
            command = {"action": "update_metadata", "model_id": "m", "request_id": "r", "metadata": {"a": "x" * text}}
            raw = msgspec.json.encode(command) if encoding is Encoding.JSON else msgspec.msgpack.encode(command)
            if len(raw) == size:
                return raw
        raise AssertionError(size)

    assert decode_command(payload(limit)).command.request_id == "r"
    with pytest.raises(Refused, match="1048577 bytes: at most 1048576 are read") as caught:
        decode_command(payload(limit + 1))
    assert caught.value.fault.code is ErrorCode.MALFORMED_MESSAGE
    assert caught.value.request_id is None


def attachments(count: int, size: int = 1) -> list[Attachment]:
    return [Attachment(name=f"image-{index}", bytes=size) for index in range(count)]


def test_sixteen_attachments_of_128_mebibytes_in_all_pass() -> None:
    check_attachments(attachments(16, 8 << 20), [8 << 20] * 16, Limits())
    check_attachments([], [], Limits())


@pytest.mark.parametrize(
    ("declared", "sizes", "text"),
    [
        (attachments(17), [1] * 17, "attachments is 17: expected at most 16 in a message"),
        (attachments(1, (128 << 20) + 1), [(128 << 20) + 1], "at most 134217728 bytes in all"),
        (attachments(2), [1], "attachments is 2: expected 1, one for each frame behind the payload"),
        ([], [1], "attachments is 0: expected 1, one for each frame behind the payload"),
        (attachments(2, 5), [5, 6], "attachments[1].bytes is 5: expected 6, the length of its frame"),
    ],
)
def test_attachments_past_a_limit_or_unlike_their_frames_are_refused(
    declared: list[Attachment], sizes: list[int], text: str
) -> None:
    with pytest.raises(Fault) as caught:
        check_attachments(declared, sizes, Limits())
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert text in str(caught.value)


def test_more_attachments_than_may_be_declared_and_those_of_other_actions_are_refused() -> None:
    named = [{"name": "a", "bytes": 1}] * 17
    with pytest.raises(Refused, match="at most 16 in a message"):
        decoded(GENERATE | {"attachments": named})
    with pytest.raises(Refused, match=r"attachments\[1\].name is 'a': expected one picture"):
        decoded(GENERATE | {"attachments": named[:2]})
    with pytest.raises(Refused, match="none with this action"):
        decoded(PING | {"attachments": named[:1]})


MASK, PICTURE = {"name": "mask", "bytes": 1}, {"name": "image-0", "bytes": 1}


@pytest.mark.parametrize(
    ("attachments", "text"),
    [
        ([MASK], "attachments is required: a mask needs the picture"),
        ([MASK, MASK], r"attachments\[1\].name is 'mask': expected one mask"),
        ([PICTURE, MASK, PICTURE], r"attachments\[2\].name is 'image-0': expected one picture"),
        ([{"name": "control", "bytes": 1}, {"name": "control", "bytes": 1}], "one picture for the ControlNet"),
    ],
)
def test_a_picture_and_its_mask_are_told_by_their_names(attachments: list[dict[str, object]], text: str) -> None:
    with pytest.raises(Refused, match=text):
        decoded(GENERATE | {"attachments": attachments})


@pytest.mark.parametrize(
    ("attachments", "mode"),
    [([], Mode.TEXT), ([PICTURE], Mode.IMAGE), ([PICTURE, MASK], Mode.INPAINT), ([MASK, PICTURE], Mode.INPAINT)],
)
def test_what_is_attached_says_how_to_draw(attachments: list[dict[str, object]], mode: Mode) -> None:
    command = decoded(GENERATE | {"attachments": attachments}).command
    assert isinstance(command, c.Generate)
    assert given(command.attachments).mode is mode


def test_limits_of_the_configuration_are_the_ones_in_force() -> None:
    narrow = Limits(page_size=5, payload_bytes=60)
    payload = msgspec.json.encode(LIST | {"page_size": 5})
    assert decode_command(payload, narrow).warnings == []
    with pytest.raises(Refused, match="1 to 5"):
        decode_command(msgspec.json.encode(LIST | {"page_size": 6}), narrow)
    with pytest.raises(Refused, match="at most 60 are read"):
        decode_command(payload + b" " * 60, narrow)


def test_a_request_id_is_held_to_its_alphabet() -> None:
    assert valid_request_id("0190-ab:/~!", Limits())
    assert not valid_request_id("a\tb", Limits())


@pytest.mark.parametrize("action", [a.name for a in ACTIONS.values() if "model_id" in a.command.__struct_fields__])
@pytest.mark.parametrize("model_id", ["a b", "../x", "ü", "-x", "x" * 129, "x" * 500_000])
def test_a_model_id_that_breaks_the_rules_is_invalid_in_every_command(action: str, model_id: str) -> None:
    payload = msgspec.json.encode({"action": action, "model_id": model_id, "request_id": "r"})
    with pytest.raises(Refused) as refused:
        decode_command(payload)
    assert refused.value.fault.code is ErrorCode.INVALID_ARGUMENT
    assert refused.value.fault.message.startswith("model_id is") and len(refused.value.fault.message) < 1000


def test_an_oversize_payload_is_answered_in_its_own_encoding() -> None:
    for pack, encoding in ((msgspec.json.encode, Encoding.JSON), (msgspec.msgpack.encode, Encoding.MSGPACK)):
        with pytest.raises(Refused) as refused:
            decode_command(pack({"action": "ping", "padding": "x" * 2_000_000}))
        assert refused.value.encoding is encoding
