"""What the supervisor and the broker tell each other is one line of JSON each."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import wire_strategies as wire
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import supervision

QUICK = settings(max_examples=10, deadline=None, database=None)


@pytest.mark.parametrize("cls", supervision.ToBroker.__args__)
@QUICK
@given(data=st.data())
def test_what_the_supervisor_says_arrives_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(wire.structs(cls))
    text = supervision.line(message)
    assert supervision.to_broker(text) == message
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")


@pytest.mark.parametrize("cls", supervision.FromBroker.__args__)
@QUICK
@given(data=st.data())
def test_what_the_broker_says_arrives_as_it_was(cls: type[Any], data: st.DataObject) -> None:
    message = data.draw(wire.structs(cls))
    text = supervision.line(message)
    assert supervision.from_broker(text) == message
    assert text.count(b"\n") == 1


@QUICK
@given(wire.structs(supervision.BrokerSpec))
def test_the_brokers_spec_survives_its_argument(spec: supervision.BrokerSpec) -> None:
    assert msgspec.json.decode(msgspec.json.encode(spec), type=supervision.BrokerSpec) == spec


@pytest.mark.parametrize("text", [b"", b"\n", b"{}", b"hello", b'{"t":"ready"}', b'{"t":"kill","child":1}', b"[]"])
def test_a_line_that_is_none_raises_a_decode_error(text: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        supervision.to_broker(text)
    with pytest.raises(msgspec.DecodeError):
        supervision.from_broker(text)
