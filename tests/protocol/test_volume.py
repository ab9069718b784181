"""How much one message may ask of the broker's one thread, and of its answer: both sides of each limit."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from protocol.checks import MOST_METADATA, MOST_PARAMETERS
from protocol.codec import MOST_VALUES, Refused, decode_command
from protocol.enums import Encoding
from protocol.errors import ErrorCode
from protocol.tolerant import MOST_WARNINGS


def encoded(value: Any, encoding: Encoding) -> bytes:
    return (msgspec.json if encoding is Encoding.JSON else msgspec.msgpack).encode(value)


def refusal(value: Any, encoding: Encoding = Encoding.JSON) -> Refused:
    with pytest.raises(Refused) as caught:
        decode_command(encoded(value, encoding))
    return caught.value


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("shape", ["fields", "nested", "items", "pairs"])
def test_values_up_to_the_limit_are_read_and_one_more_is_not(encoding: Encoding, shape: str) -> None:
    def message(count: int) -> dict[str, Any]:
        """`count` keys and items, `action` among them."""
        match shape:
            case "fields":
                return {"action": "ping", **{f"f{index}": 1 for index in range(count - 1)}}
            case "nested":
                return {"action": "ping", "more": {f"f{index}": 1 for index in range(count - 2)}}
            case "items":
                return {"action": "ping", "more": [1] * (count - 2)}
            case _:
                return {"action": "ping", "more": [[1]] * ((count - 2) // 2), **({"x": 1} if count % 2 else {})}

    told = decode_command(encoded(message(MOST_VALUES), encoding))
    assert told.command.__struct_config__.tag == "ping"
    refused = refusal(message(MOST_VALUES + 1), encoding)
    assert refused.fault.code is ErrorCode.MALFORMED_MESSAGE
    assert str(MOST_VALUES) in refused.fault.message and refused.request_id is None


def test_a_long_text_is_one_value() -> None:
    text = ":,[]{}" * 2000
    assert decode_command(encoded({"action": "ping", "request_id": "r", "more": text}, Encoding.JSON))


def test_unknown_fields_are_named_up_to_the_limit_and_counted_beyond() -> None:
    def warnings(count: int) -> list[str]:
        payload = encoded({"action": "ping", **{f"field{index}": 1 for index in range(count)}}, Encoding.JSON)
        return decode_command(payload).warnings

    assert len(warnings(MOST_WARNINGS)) == MOST_WARNINGS and "more" not in warnings(MOST_WARNINGS)[-1]
    beyond = warnings(MOST_WARNINGS + 5)
    assert len(beyond) == MOST_WARNINGS + 1 and beyond[-1].startswith("5 more fields")


def test_what_many_unknown_fields_are_answered_is_smaller_than_they_are() -> None:
    payload = encoded({"action": "ping", **{f"field{index}": 1 for index in range(MOST_VALUES - 1)}}, Encoding.JSON)
    assert sum(map(len, decode_command(payload).warnings)) < len(payload) / 10


def test_fields_given_twice_count_among_the_warnings() -> None:
    spellings = {f"timeout{'_' * index}Seconds": 1.0 for index in range(MOST_WARNINGS + 10)}
    warnings = decode_command(encoded({"action": "ping", **spellings}, Encoding.JSON)).warnings
    assert len(warnings) == MOST_WARNINGS + 1 and "9 more" in warnings[-1]


def test_parameters_up_to_the_limit_are_taken_and_one_more_is_refused_by_name() -> None:
    def load(count: int) -> dict[str, Any]:
        parameters = {f"p{index}": index for index in range(count)}
        return {"action": "load_model", "model_id": "m", "configuration": {"parameters": parameters}}

    assert decode_command(encoded(load(MOST_PARAMETERS), Encoding.JSON))
    fault = refusal(load(MOST_PARAMETERS + 1)).fault
    assert fault.code is ErrorCode.INVALID_ARGUMENT and fault.details["field"] == "configuration.parameters"
    assert f"{MOST_PARAMETERS + 1} keys" in fault.message


def test_metadata_up_to_the_limit_is_taken_and_one_more_is_refused_by_name() -> None:
    def update(count: int) -> dict[str, Any]:
        return {"action": "update_metadata", "model_id": "m", "metadata": {f"k{index}": "x" for index in range(count)}}

    assert decode_command(encoded(update(MOST_METADATA), Encoding.JSON))
    fault = refusal(update(MOST_METADATA + 1)).fault
    assert fault.code is ErrorCode.INVALID_ARGUMENT and fault.details["field"] == "metadata"
