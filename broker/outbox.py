"""Replies to clients that read slowly: kept in order and tried again, within bounds, so that nobody else waits.

A client that reads nothing loses what is beyond the bounds; stored replies can still be fetched by request id.
"""

from __future__ import annotations

from collections import deque

import zmq

from broker.auth import Doors
from broker.frames import send
from settings.logs import Logger

MAX_BYTES = 64 << 20
"""Bytes kept for one client."""

RETRY_SECONDS = 0.02

_log = Logger()


class Outbox:
    """Sends to the clients of one ROUTER socket with `ROUTER_MANDATORY`; `doors` are those that guard it."""

    def __init__(self, socket: zmq.Socket[bytes], doors: Doors | None = None) -> None:
        self._socket = socket
        self._doors = doors
        self._waiting: dict[bytes, deque[tuple[bytes, ...]]] = {}
        self._bytes: dict[bytes, int] = {}

    @property
    def retry_seconds(self) -> float | None:
        """How soon to call `retry`; None where nothing waits."""
        return RETRY_SECONDS if self._waiting else None

    def send(self, client: bytes, frames: tuple[bytes, ...]) -> None:
        """Send now, or keep for later."""
        if client in self._waiting or not self._try(client, frames):
            self._keep(client, frames)

    def retry(self) -> None:
        """Try again what waits."""
        for client in list(self._waiting):
            line = self._waiting[client]
            while line and self._try(client, line[0]):
                self._bytes[client] -= sum(map(len, line.popleft()))
            if not line:
                self._forget(client)

    def _try(self, client: bytes, frames: tuple[bytes, ...]) -> bool:
        route = client if self._doors is None else self._doors.route(client)
        if route is None:
            _log.info("a reply has nobody to go to", client=client.hex())
            return True
        try:
            send(self._socket, (route, *frames))
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            _log.info("a reply has nobody to go to", client=client.hex())
        return True

    def _keep(self, client: bytes, frames: tuple[bytes, ...]) -> None:
        size = sum(map(len, frames))
        if self._bytes.get(client, 0) + size > MAX_BYTES:
            _log.warning("a client does not read: a reply is dropped", client=client.hex(), bytes=size)
            return
        self._waiting.setdefault(client, deque()).append(frames)
        self._bytes[client] = self._bytes.get(client, 0) + size

    def _forget(self, client: bytes) -> None:
        del self._waiting[client]
        del self._bytes[client]
