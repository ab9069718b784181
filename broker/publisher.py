"""The events endpoint: publishes what somebody subscribed to, and the latest values to who is new.

A subscriber that cannot keep up loses events at its own high-water mark; nothing here waits for it.
"""

from __future__ import annotations

from collections import Counter

import msgspec
import zmq

from broker.core.events import Publish
from protocol.events import MSGPACK_PREFIX

HIGH_WATER_MARK = 10_000

_json = msgspec.json.Encoder()
_msgpack = msgspec.msgpack.Encoder()


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Is there a message to take? Cheaper than asking for one and catching `zmq.Again`."""
    return bool(int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)


class Publisher:
    """Owns the XPUB socket. Nothing is encoded for a topic that nobody wants."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self.socket = context.socket(zmq.XPUB)
        self.socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self.socket.setsockopt(zmq.XPUB_MANUAL_LAST_VALUE, 1)
        self.socket.bind(address)
        self.address = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._subscriptions: Counter[bytes] = Counter()
        self._latest: dict[str, Publish] = {}

    def publish(self, event: Publish) -> None:
        """Send one event in the encodings that somebody subscribed to."""
        if event.state:
            self._latest[event.topic] = event
        topic = event.topic.encode()
        if self._wanted(topic):
            self._send(topic, _json.encode(event.payload))
        topic = (MSGPACK_PREFIX + event.topic).encode()
        if self._wanted(topic):
            self._send(topic, _msgpack.encode(event.payload))

    def read_subscriptions(self) -> None:
        """Take in who came and went; a newcomer gets the latest value of each state topic it matches."""
        while readable(self.socket):
            message = self.socket.recv()
            prefix = message[1:]
            if message[:1] == b"\x01":
                self._subscriptions[prefix] += 1
                self.socket.setsockopt(zmq.SUBSCRIBE, prefix)
                self._greet(prefix)
            elif message[:1] == b"\x00":
                self._subscriptions[prefix] -= 1
                self._subscriptions += Counter()
                self.socket.setsockopt(zmq.UNSUBSCRIBE, prefix)

    def _greet(self, prefix: bytes) -> None:
        for name, event in self._latest.items():
            topic = name.encode()
            if topic.startswith(prefix):
                self._send(topic, _json.encode(event.payload))
            topic = (MSGPACK_PREFIX + name).encode()
            if topic.startswith(prefix):
                self._send(topic, _msgpack.encode(event.payload))

    def _wanted(self, topic: bytes) -> bool:
        return any(topic.startswith(prefix) for prefix in self._subscriptions)

    def _send(self, topic: bytes, payload: bytes) -> None:
        self.socket.send_multipart((topic, payload), flags=zmq.DONTWAIT)
