"""What the broker publishes, as structs: a subscriber that sees each gap in a topic's sequence.

Knows nothing of commands. A gap means that this subscriber was too slow, or that the broker restarted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec
import zmq
from msgspec import Struct

from client.curve import CurveKeys
from protocol.enums import Encoding
from protocol.events import EVENTS, MSGPACK_PREFIX, Event
from settings.addresses import reachable
from settings.endpoints import find

_json = {word: msgspec.json.Decoder(kind) for word, kind in EVENTS.items()}
_msgpack = {word: msgspec.msgpack.Decoder(kind) for word, kind in EVENTS.items()}


class Published(Struct, frozen=True, kw_only=True):
    """An event under its topic without the encoding's prefix; `missed` events of it were lost just before this one.

    `restarted`: the broker's epoch is another than that of the last event.
    """

    topic: str
    event: Event
    payload: bytes
    missed: int = 0
    restarted: bool = False


class Sequence:
    """The last sequence number of each topic, under one epoch."""

    def __init__(self) -> None:
        self.epoch = ""
        self._last: dict[str, int] = {}

    def follow(self, topic: str, event: Event) -> tuple[int, bool]:
        """How many events of this topic were missed before this one, and whether the broker restarted."""
        restarted = self.epoch not in ("", event.epoch)
        if event.epoch != self.epoch:
            self.epoch = event.epoch
            self._last.clear()
        last = self._last.get(topic)
        self._last[topic] = event.seq
        return (0 if last is None else max(event.seq - last - 1, 0)), restarted


def decode(topic: str, payload: bytes) -> tuple[str, Event]:
    """The topic without the encoding's prefix, and the event. Raises msgspec.DecodeError, KeyError for a new topic."""
    packed = topic.startswith(MSGPACK_PREFIX)
    topic = topic.removeprefix(MSGPACK_PREFIX)
    return topic, (_msgpack if packed else _json)[topic.split(".", 1)[0]].decode(payload)


def events_address(told: str, commands: str) -> str:
    """Where the events of the broker at `commands` are reached, whose `hello` told this address; "" where it told none:
    then as the settings find them. Raises ConfigError."""
    return reachable(told, beside=commands) if told else find().events


def _connect(
    socket: Any, endpoint: str, topics: Iterable[str], encoding: Encoding, curve: CurveKeys | None
) -> Sequence:
    socket.linger = 0
    socket.ipv6 = True
    if curve is not None:
        curve.apply(socket)
    prefixes = [MSGPACK_PREFIX] if encoding is Encoding.MSGPACK else sorted(EVENTS)
    for topic in topics:
        socket.subscribe((MSGPACK_PREFIX if encoding is Encoding.MSGPACK else "") + topic)
    if not list(topics):
        for prefix in prefixes:
            socket.subscribe(prefix)
    socket.connect(endpoint)
    return Sequence()


def _published(frames: list[bytes], sequence: Sequence) -> Published | None:
    try:
        topic, event = decode(frames[0].decode(), frames[1])
    except (msgspec.DecodeError, KeyError, ValueError, IndexError):
        return None
    missed, restarted = sequence.follow(topic, event)
    return Published(topic=topic, event=event, payload=frames[1], missed=missed, restarted=restarted)


class EventStream:
    """A subscription, used by one thread: iterate over it, or `next` with a time. Close it, or use it in a `with`.

    Without an endpoint it is that of the broker found on this machine; `Client.events` asks a broker for its own.

    `topics` are beginnings such as `telemetry.` or `job.<request_id>`; none means all.
    """

    def __init__(
        self,
        topics: Iterable[str] = (),
        endpoint: str | None = None,
        *,
        encoding: Encoding = Encoding.JSON,
        curve: CurveKeys | None = None,
    ) -> None:
        self.endpoint = endpoint or find().events
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._sequence = _connect(self._socket, self.endpoint, tuple(topics), encoding, curve or CurveKeys.find())

    def __enter__(self) -> EventStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription."""
        self._context.destroy(0)

    def next(self, timeout_seconds: float | None = None) -> Published | None:
        """The next event, or None after the time given (None: no end). What is no event of this protocol is skipped."""
        while self._socket.poll(None if timeout_seconds is None else int(timeout_seconds * 1000)):
            published = _published(self._socket.recv_multipart(), self._sequence)
            if published is not None:
                return published
        return None

    def __iter__(self) -> Iterator[Published]:
        while True:
            published = self.next()
            if published is not None:
                yield published


class AsyncEventStream:
    """`EventStream` for asyncio: `async for` over it, in an `async with`."""

    def __init__(
        self,
        topics: Iterable[str] = (),
        endpoint: str | None = None,
        *,
        encoding: Encoding = Encoding.JSON,
        curve: CurveKeys | None = None,
    ) -> None:
        from zmq.asyncio import Context  # noqa: PLC0415 - asyncio is not for those who only use threads

        self.endpoint = endpoint or find().events
        self._context = Context()
        self._socket = self._context.socket(zmq.SUB)
        self._sequence = _connect(self._socket, self.endpoint, tuple(topics), encoding, curve or CurveKeys.find())

    async def __aenter__(self) -> AsyncEventStream:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription."""
        self._context.destroy(0)

    async def __aiter__(self) -> AsyncIterator[Published]:
        while True:
            published = _published(await self._socket.recv_multipart(), self._sequence)
            if published is not None:
                yield published
