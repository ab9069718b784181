"""The events endpoint over real sockets, with the core that numbers and remembers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
import zmq
from room import Room, residency

from broker.core.events import Publish
from broker.publisher import Publisher

Sub = zmq.Socket[bytes]


class Stand:
    """A publisher, the core behind it, and subscribers."""

    def __init__(self, context: zmq.Context[Sub]) -> None:
        self.context = context
        self.room = Room()
        self.publisher = Publisher(context, "tcp://127.0.0.1:*")
        self.subscribers: list[Sub] = []

    def subscribe(self, *prefixes: str) -> Sub:
        socket = self.context.socket(zmq.SUB)
        socket.connect(self.publisher.address)
        self.subscribers.append(socket)
        for prefix in prefixes:
            socket.subscribe(prefix)
            assert self.publisher.socket.poll(5000)
            for change in self.publisher.read_subscriptions():
                self.apply(self.room.handle(change))
        return socket

    def apply(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Publish):
                self.publisher.publish(effect)

    def sample(self, device: str, used: int = 0) -> None:
        before = len(self.room.effects)
        self.room.holds(device, residency("m"), used=used)
        self.apply(self.room.effects[before:])


@pytest.fixture
def stand() -> Iterator[Stand]:
    context: zmq.Context[Sub] = zmq.Context()
    stand = Stand(context)
    yield stand
    for socket in (*stand.subscribers, stand.publisher.socket):
        socket.close(linger=0)
    context.term()


def heard(socket: Sub, decode: Callable[[bytes], Any] = msgspec.json.decode) -> list[tuple[str, Any]]:
    """All that came until 200 ms passed without anything."""
    events = []
    while socket.poll(200):
        topic, payload = socket.recv_multipart()
        events.append((topic.decode(), decode(payload)))
    return events


def test_newcomer_gets_the_latest_value_of_matching_state_topics_only(stand: Stand) -> None:
    stand.sample("cpu:0", used=1)
    stand.sample("cpu:0", used=2)
    stand.sample("cpu:1", used=3)
    events = heard(stand.subscribe("telemetry.cpu:0"))
    assert [topic for topic, _ in events] == ["telemetry.cpu:0"]
    assert events[0][1]["memory"]["used"] == 2
    topics = {topic for topic, _ in heard(stand.subscribe("telemetry."))}
    assert topics == {"telemetry.cpu:0", "telemetry.cpu:1"}


def test_job_events_are_not_repeated_to_newcomers(stand: Stand) -> None:
    stand.apply(stand.room.send("generate", model_id="m", prompt="x", request_id="r"))
    assert heard(stand.subscribe("job.")) == []


def test_a_newcomer_costs_nobody_an_event_and_nobody_sees_a_number_twice(stand: Stand) -> None:
    first = stand.subscribe("telemetry.")
    stand.sample("cpu:0")
    stand.sample("cpu:1")
    second = stand.subscribe("telemetry.")
    stand.subscribe("catalog")
    stand.sample("cpu:0")
    stand.sample("cpu:1")
    for subscriber in (first, second):
        events = heard(subscriber)
        for device in ("cpu:0", "cpu:1"):
            numbers = [event["seq"] for topic, event in events if topic == f"telemetry.{device}"]
            assert len(numbers) >= 2
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_msgpack_topics_carry_the_same_payload(stand: Stand) -> None:
    stand.sample("cpu:0", used=7)
    packed = heard(stand.subscribe("msgpack.telemetry.cpu:0"), msgspec.msgpack.decode)
    plain = heard(stand.subscribe("telemetry.cpu:0"))
    assert packed[0][0] == "msgpack.telemetry.cpu:0"
    assert packed[0][1]["memory"] == plain[0][1]["memory"]


def test_the_empty_subscription_hears_both_encodings(stand: Stand) -> None:
    socket = stand.subscribe("")
    stand.apply([Publish("catalog", _event())])
    topics = {topic for topic, _ in heard(socket, lambda payload: payload)}
    assert {"catalog", "msgpack.catalog"} <= topics


def test_nothing_is_encoded_without_a_subscriber(stand: Stand) -> None:
    unencodable = Publish("queue", _event(change=object()))
    stand.publisher.publish(unencodable)
    socket = stand.subscribe("job.")
    stand.publisher.publish(unencodable)
    socket.unsubscribe("job.")
    socket.subscribe("queue")
    assert stand.publisher.socket.poll(5000)
    while all(change.prefix != "queue" for change in stand.publisher.read_subscriptions()):
        assert stand.publisher.socket.poll(5000)
    with pytest.raises(TypeError):
        stand.publisher.publish(unencodable)


def test_who_leaves_is_forgotten(stand: Stand) -> None:
    socket = stand.subscribe("queue")
    socket.close(linger=0)
    stand.subscribers.remove(socket)
    assert stand.publisher.socket.poll(5000)
    stand.publisher.read_subscriptions()
    stand.publisher.publish(Publish("queue", _event(change=object())))


def _event(change: Any = "added") -> msgspec.Struct:
    return msgspec.defstruct("Event", [("change", Any)])(change)
