"""The DEALER socket of a client and the monitor that tells when a connection stands or falls."""

from __future__ import annotations

from typing import Any

import zmq

from client.curve import CurveKeys

RECONNECT_MS = 50
RECONNECT_MAX_MS = 1000
LARGE_FRAME_BYTES = 65536
_KEY_REFUSED = zmq.Event.HANDSHAKE_FAILED_AUTH
_NO_HANDSHAKE = zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL
WATCHED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED | zmq.Event.CLOSED | _KEY_REFUSED | _NO_HANDSHAKE


def prepare(socket: Any, curve: CurveKeys | None) -> None:
    """Options of every client socket: what is in flight is bounded by its commands, not by the socket."""
    socket.linger = 0
    socket.sndhwm = 0
    socket.rcvhwm = 0
    socket.ipv6 = True
    socket.reconnect_ivl = RECONNECT_MS
    socket.reconnect_ivl_max = RECONNECT_MAX_MS
    if curve is not None:
        curve.apply(socket)


def is_large(frames: list[bytes]) -> bool:
    """Whether sending without a copy is worth its cost."""
    return any(len(frame) > LARGE_FRAME_BYTES for frame in frames)


def event_of(frames: list[bytes]) -> int:
    """The number of the event in a monitor's message."""
    return int.from_bytes(frames[0][:2], "little")


def refusal_of(event: int, has_key: bool) -> str:
    """What a failed handshake says about the keys; empty for an event that says nothing about them."""
    if event & _KEY_REFUSED:
        return "a broker is there and does not admit this client's key"
    if not event & _NO_HANDSHAKE:
        return ""
    if has_key:
        return "somebody is there and cannot be spoken to with this key: it is another broker's, or it takes no keys"
    return "somebody is there and hangs up: it wants a key, and this client has none, or it is no broker"


def readable(socket: Any) -> bool:
    """Whether a message waits; cheaper than catching `zmq.Again`."""
    return bool(socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
