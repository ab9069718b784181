"""Messages to peers that read slowly: kept in order and tried again, within bounds in bytes, so that nobody else waits.

What libzmq holds for a peer counts too, as far as it is large: its own bound counts messages, whatever their size. A
peer behind its bound is not a dead peer; what becomes of a message beyond it is the caller's to say.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import zmq

from broker.auth import Doors
from broker.frames import send, send_tracked

MAX_BYTES = 64 << 20
"""Bytes kept for one peer; a single message may be larger."""

MAX_TOTAL_BYTES = 1 << 30
LARGE_BYTES = 16 << 10
"""From here on a message is followed until libzmq has written it."""

RETRY_SECONDS = 0.02


class Bounds:
    """Bytes for one peer and for all."""

    def __init__(self, peer_bytes: int = MAX_BYTES, total_bytes: int = MAX_TOTAL_BYTES) -> None:
        self.peer_bytes = peer_bytes
        self.total_bytes = total_bytes


class Outbox:
    """Sends to the peers of one ROUTER socket with `ROUTER_MANDATORY`; `doors` are those that guard it.

    `gone(peer)` is called for a message that has nobody to go to, `full(peer, bytes)` for one beyond the bounds.
    """

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        doors: Doors | None = None,
        *,
        gone: Callable[[bytes], None],
        full: Callable[[bytes, int], None],
        bounds: Bounds | None = None,
    ) -> None:
        self._socket = socket
        self._doors = doors
        self._gone = gone
        self._full = full
        self._bounds = bounds or Bounds()
        self._waiting: dict[bytes, deque[tuple[bytes, ...]]] = {}
        self._bytes: dict[bytes, int] = {}
        self._on_the_way: dict[bytes, deque[tuple[zmq.MessageTracker, int]]] = {}
        self._total = 0

    @property
    def retry_seconds(self) -> float | None:
        """How soon to call `retry`; None where nothing waits."""
        return RETRY_SECONDS if self._waiting else None

    def send(self, peer: bytes, frames: tuple[bytes, ...]) -> None:
        """Send now, or keep for later."""
        if peer in self._waiting or not self._try(peer, frames):
            self._keep(peer, frames)

    def retry(self) -> None:
        """Try again what waits."""
        for peer in list(self._waiting):
            line = self._waiting[peer]
            while line and self._try(peer, line[0]):
                self._count(peer, -_size(line.popleft()))
            if not line:
                del self._waiting[peer]
        for peer in list(self._on_the_way):
            self._see_written(peer)

    def _try(self, peer: bytes, frames: tuple[bytes, ...]) -> bool:
        """Send now; False where the peer has to read first."""
        route = peer if self._doors is None else self._doors.route(peer)
        if route is None:
            self._gone(peer)
            return True
        size = _size(frames)
        if size >= LARGE_BYTES and not self._has_room(peer, size):
            return False
        try:
            if size < LARGE_BYTES:
                send(self._socket, (route, *frames))
            else:
                tracker = send_tracked(self._socket, (route, *frames))
                self._on_the_way.setdefault(peer, deque()).append((tracker, size))
                self._count(peer, size)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._gone(peer)
        return True

    def _has_room(self, peer: bytes, size: int) -> bool:
        """May libzmq be given so much more? A single message always, however large."""
        if peer in self._on_the_way:
            self._see_written(peer)
        on_the_way = sum(held for _, held in self._on_the_way.get(peer, ()))
        return not on_the_way or on_the_way + size <= self._bounds.peer_bytes

    def _see_written(self, peer: bytes) -> None:
        """What libzmq has written, or given up, counts no more."""
        line = self._on_the_way[peer]
        while line and line[0][0].done:
            self._count(peer, -line.popleft()[1])
        if not line:
            del self._on_the_way[peer]

    def _keep(self, peer: bytes, frames: tuple[bytes, ...]) -> None:
        size = _size(frames)
        held = self._bytes.get(peer, 0)
        if (held and held + size > self._bounds.peer_bytes) or self._total + size > self._bounds.total_bytes:
            self._full(peer, size)
            return
        self._waiting.setdefault(peer, deque()).append(frames)
        self._count(peer, size)

    def _count(self, peer: bytes, size: int) -> None:
        self._total += size
        left = self._bytes.get(peer, 0) + size
        if left:
            self._bytes[peer] = left
        else:
            self._bytes.pop(peer, None)


def _size(frames: tuple[bytes, ...]) -> int:
    return sum(map(len, frames))
