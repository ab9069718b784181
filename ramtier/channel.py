"""One socket pair between a worker and the keeper of the tier: whole messages, at most one descriptor beside each."""

from __future__ import annotations

import os
import socket

MOST_BYTES = 1 << 17
"""Of a message: some two thousand keys."""


def pair() -> tuple[socket.socket, socket.socket]:
    """The keeper's end and the worker's. Raises OSError."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(channel: socket.socket, data: bytes, descriptor: int = -1, *, wait: bool = True) -> None:
    """Raises OSError, BlockingIOError where the other end does not read and `wait` is false."""
    flags = 0 if wait else socket.MSG_DONTWAIT
    socket.send_fds(channel, [data], [descriptor] if descriptor >= 0 else [], flags | socket.MSG_NOSIGNAL)


def receive(channel: socket.socket) -> tuple[bytes, int]:
    """A message and its descriptor, -1 where it has none. Raises EOFError where the other end is gone, and OSError."""
    data, descriptors, _, _ = socket.recv_fds(channel, MOST_BYTES, 1, socket.MSG_CMSG_CLOEXEC)
    if not data:
        for descriptor in descriptors:
            os.close(descriptor)
        raise EOFError("the other end is gone")
    return data, descriptors[0] if descriptors else -1
