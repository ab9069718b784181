"""The events endpoint: publishes what somebody subscribed to, and tells who is new.

A subscriber that cannot keep up loses events at its own high-water mark; nothing here waits for it.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import zmq

from broker.core.events import Publish, Subscribed
from broker.frames import readable, send
from protocol.events import MSGPACK_PREFIX

HIGH_WATER_MARK = 10_000

_COMES, _GOES = b"\x01", b"\x00"

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


class Publisher:
    """Owns the XPUB socket. Nothing is encoded for a topic that nobody wants.

    `listener` is a descriptor that listens at the address already, -1 for none.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str, listener: int = -1) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        if listener >= 0:
            self.socket.setsockopt(zmq.USE_FD, listener)
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
        """Take in who came, and whom the last one left."""
        changes = []
        while readable(self.socket):
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
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def _send(self, topic: bytes, payload: bytes) -> None:
        send(self.socket, (topic, payload))
