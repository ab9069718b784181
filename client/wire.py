"""The DEALER socket of a client and the monitor that tells when a connection stands or falls."""

from __future__ import annotations

from typing import Any

import zmq

from client.curve import CurveKeys

RECONNECT_MS = 50
RECONNECT_MAX_MS = 1000
LARGE_FRAME_BYTES = 65536
WATCHED = zmq.Event.HANDSHAKE_SUCCEEDED | zmq.Event.DISCONNECTED


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


def readable(socket: Any) -> bool:
    """Whether a message waits; cheaper than catching `zmq.Again`."""
    return bool(socket.getsockopt(zmq.EVENTS) & zmq.POLLIN)
