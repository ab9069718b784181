"""What a subscriber promises about the events that it gets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
import replies
import zmq

from client import AsyncEventStream, EventStream
from protocol.enums import Encoding
from protocol.events import CatalogEvent, QueueEvent


class Publisher:
    """A real XPUB on a free port."""

    def __init__(self) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.last_endpoint.decode()

    def wait_for_subscriber(self) -> bytes:
        return self._socket.recv()

    def send(self, seq: int, epoch: str = "e1", topic: str = "catalog") -> None:
        event = CatalogEvent(seq=seq, time=replies.NOW, epoch=epoch, model_id="m", change="added", revision=1)
        encode = msgspec.msgpack.encode if topic.startswith("msgpack.") else msgspec.json.encode
        self.send_raw(topic, encode(event))

    def send_raw(self, topic: str, payload: bytes) -> None:
        self._socket.send_multipart([topic.encode(), payload])

    def close(self) -> None:
        self._context.destroy(0)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    made = Publisher()
    yield made
    made.close()


def test_a_gap_in_a_topic_is_counted(publisher: Publisher) -> None:
    with EventStream(["catalog"], publisher.endpoint) as stream:
        publisher.wait_for_subscriber()
        for seq in (4, 5, 9):
            publisher.send(seq)
        events = [stream.next(5) for _ in range(3)]
    assert [event.missed for event in events if event] == [0, 0, 3]
    assert isinstance(events[0].event, CatalogEvent) if events[0] else False


def test_a_restarted_broker_is_told_and_counts_anew(publisher: Publisher) -> None:
    with EventStream(["catalog"], publisher.endpoint) as stream:
        publisher.wait_for_subscriber()
        publisher.send(8)
        publisher.send(0, epoch="e2")
        events = [stream.next(5) for _ in range(2)]
    assert [(event.missed, event.restarted) for event in events if event] == [(0, False), (0, True)]


def test_messagepack_events_come_under_their_plain_topics(publisher: Publisher) -> None:
    with EventStream(["catalog"], publisher.endpoint, encoding=Encoding.MSGPACK) as stream:
        assert publisher.wait_for_subscriber() == b"\x01msgpack.catalog"
        publisher.send(1, topic="msgpack.catalog")
        event = stream.next(5)
    assert event is not None and event.topic == "catalog" and event.event.time == replies.NOW


def test_what_is_no_event_is_skipped(publisher: Publisher) -> None:
    with EventStream(["catalog", "queue"], publisher.endpoint) as stream:
        publisher.wait_for_subscriber()
        publisher.wait_for_subscriber()
        publisher.send_raw("catalog", b"{")
        publisher.send(2)
        event = stream.next(5)
        assert event is not None and event.event.seq == 2
        assert stream.next(0.01) is None


def test_every_topic_comes_when_none_is_named(publisher: Publisher) -> None:
    async def use() -> None:
        async with AsyncEventStream((), publisher.endpoint) as stream:
            subscribed = {publisher.wait_for_subscriber()[1:] for _ in range(6)}
            assert subscribed == {b"telemetry", b"worker", b"model", b"job", b"queue", b"catalog"}
            queue = QueueEvent(
                seq=1, time=replies.NOW, epoch="e", depth=0, in_flight=0, by_device={}, by_priority={}, oldest_ms=0.0
            )
            publisher.send_raw("queue", msgspec.json.encode(queue))
            async for published in stream:
                assert published.event == queue
                return

    asyncio.run(use())
