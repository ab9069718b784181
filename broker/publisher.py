"""The events endpoint: publishes what somebody subscribed to, and tells who is new.

A subscriber that cannot keep up loses events at its own high-water mark; nothing here waits for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
import zmq

from broker.core.events import Publish, Subscribed
from broker.frames import readable, send
from protocol.events import MSGPACK_PREFIX

HIGH_WATER_MARK = 10_000

CHANGES_PER_TURN = 16
"""Subscriptions that are greeted before commands get their turn again."""

MOST_RECEIVED_BYTES = 64 << 10
"""Of a subscription; who sends more is cut off."""

_COMES, _GOES = b"\x01", b"\x00"

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


class Publisher:
    """Owns the XPUB socket. Nothing is encoded for a topic that nobody wants.

    `listener` is a descriptor that listens at the address already, -1 for none; `guard` sets who may subscribe.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        address: str,
        listener: int = -1,
        guard: Callable[[zmq.Socket[bytes]], None] | None = None,
    ) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.MAXMSGSIZE, MOST_RECEIVED_BYTES)
        self.socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        if listener >= 0:
            self.socket.setsockopt(zmq.USE_FD, listener)
        if guard is not None:
            guard(self.socket)
        self.socket.bind(address)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._subscriptions: Counter[bytes] = Counter()

    def publish(self, event: Publish) -> None:
        """Send one event in the encodings that somebody subscribed to."""
        topic = event.topic.encode()
        if self._wanted(topic):
            self._send(topic, _json.encode(event.payload))
        topic = (MSGPACK_PREFIX + event.topic).encode()
        if self._wanted(topic):
            self._send(topic, _msgpack.encode(event.payload))

    def read_subscriptions(self) -> list[Subscribed]:
        """Take in who came, and whom the last one left: a turn's worth, so that nobody waits for a flood of them."""
        changes: list[Subscribed] = []
        for _ in range(CHANGES_PER_TURN):
            if not readable(self.socket):
                break
            message = self.socket.recv()
            prefix = message[1:]
            if message[:1] == _COMES:
                self._subscriptions[prefix] += 1
                changes.append(Subscribed(prefix.decode(errors="replace")))
            elif message[:1] == _GOES:
                self._subscriptions[prefix] -= 1
                if self._subscriptions[prefix] <= 0:
                    del self._subscriptions[prefix]
                    changes.append(Subscribed(prefix.decode(errors="replace"), begins=False))
        return changes

    def _wanted(self, topic: bytes) -> bool:
        prefixes = self._subscriptions
        if len(prefixes) <= len(topic):
            return any(map(topic.startswith, prefixes))
        return any(topic[:size] in prefixes for size in range(len(topic) + 1))

    def _send(self, topic: bytes, payload: bytes) -> None:
        send(self.socket, (topic, payload))
