"""Multipart messages in and out of a socket, as cheap as pyzmq has them.

pyzmq's own multipart calls combine flag enums for every frame, which costs as much as the call to libzmq; these pass
plain integers, to the compiled socket itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq
from zmq.backend import Socket as Compiled

_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)
_DONTWAIT = int(zmq.DONTWAIT)
_MORE = _DONTWAIT | int(zmq.SNDMORE)

_recv, _send, _get = Compiled.recv, Compiled.send, Compiled.get


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Is there a message to take? Cheaper than asking for one and catching `zmq.Again`."""
    return bool(int(_get(socket, _EVENTS)) & _POLLIN)


def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The message that a ROUTER has: routing id and frames. Raises zmq.Again where there is none.

    A routing id is never alone; a `Frame` knows whether another follows, which costs half as much as asking the socket.
    """
    client = _recv(socket, _DONTWAIT)
    frame = _recv(socket, _DONTWAIT, False)
    frames = [client, frame.bytes]
    while frame.more:
        frame = _recv(socket, _DONTWAIT, False)
        frames.append(frame.bytes)
    return frames


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> None:
    """Send without waiting. Raises zmq.ZMQError EAGAIN or EHOSTUNREACH, with nothing sent."""
    last = len(frames) - 1
    for index in range(last):
        _send(socket, frames[index], _MORE)
    _send(socket, frames[last], _DONTWAIT)


def send_tracked(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> zmq.MessageTracker:
    """As `send`, without a copy of the largest frame; the tracker is done once libzmq is done with that one."""
    largest = max(range(1, len(frames)), key=lambda index: len(frames[index]))
    last = len(frames) - 1
    tracker: zmq.MessageTracker | None = None
    for index, frame in enumerate(frames):
        flags = _DONTWAIT if index == last else _MORE
        if index == largest:
            tracker = socket.send(frame, flags, copy=False, track=True)
        else:
            _send(socket, frame, flags)
    assert tracker is not None
    return tracker
