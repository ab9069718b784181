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
_RCVMORE = int(zmq.RCVMORE)
_DONTWAIT = int(zmq.DONTWAIT)
_MORE = _DONTWAIT | int(zmq.SNDMORE)

_recv, _send, _get = Compiled.recv, Compiled.send, Compiled.get


def readable(socket: zmq.Socket[bytes]) -> bool:
    """Is there a message to take? Cheaper than asking for one and catching `zmq.Again`."""
    return bool(int(_get(socket, _EVENTS)) & _POLLIN)


def receive(socket: zmq.Socket[bytes]) -> list[bytes]:
    """The message that is there. Raises zmq.Again where none is."""
    frames = [_recv(socket, _DONTWAIT)]
    while _get(socket, _RCVMORE):
        frames.append(_recv(socket, _DONTWAIT))
    return frames


def send(socket: zmq.Socket[bytes], frames: Sequence[bytes]) -> None:
    """Send without waiting. Raises zmq.ZMQError EAGAIN or EHOSTUNREACH, with nothing sent."""
    last = len(frames) - 1
    for index in range(last):
        _send(socket, frames[index], _MORE)
    _send(socket, frames[last], _DONTWAIT)
