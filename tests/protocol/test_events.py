"""Events carry what the wire's table says, in JSON and in MessagePack."""

from __future__ import annotations

import msgspec
import pytest
import wire_strategies as wire
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol import events

TABLE = {
    "telemetry": "device_id memory memory_pressure utilization temperature_c power_w energy_j torch gpu host missing",
    "worker": "device_id state generation pid restarts reason",
    "model": "device_id model_id tier from_tier bytes reason stage bytes_done bytes_total eta_ms",
    "job": "request_id action job_state device_id model_id progress success error key",
    "queue": "depth in_flight by_device by_priority oldest_ms",
    "catalog": "model_id change revision",
}
EVERY = {"seq", "time", "epoch"}


@pytest.mark.parametrize("topic", TABLE)
def test_every_event_has_exactly_the_fields_of_the_wire(topic: str) -> None:
    assert set(events.EVENTS[topic].__struct_fields__) == EVERY | set(TABLE[topic].split())


def test_every_topic_is_there() -> None:
    assert set(events.EVENTS) == set(TABLE)


def test_the_state_topics_are_those_whose_latest_value_a_subscriber_gets() -> None:
    topics = ["telemetry.cpu:0", "worker.cpu:0", "model.cpu:0.a.b", "queue", "job.r", "catalog"]
    assert [topic for topic in topics if topic.startswith(events.STATE_TOPICS)] == topics[:4]


@pytest.mark.parametrize("topic", TABLE)
@settings(max_examples=10, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_every_event_survives_both_encodings(topic: str, data: st.DataObject) -> None:
    cls = events.EVENTS[topic]
    event = data.draw(wire.structs(cls))
    assert msgspec.json.decode(msgspec.json.encode(event), type=cls) == event
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event), type=cls) == event
