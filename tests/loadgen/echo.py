"""A ROUTER that answers every command at once, or as it is told to: what the generator is measured against."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

Answer = Callable[[dict[str, Any]], dict[str, Any] | None]


def well(command: dict[str, Any]) -> dict[str, Any]:
    """A completed reply."""
    return {
        "request_id": command["request_id"],
        "action": command["action"],
        "success": True,
        "state": "completed",
        "device_id": "cpu:0",
        "timing": {"queue_ms": 1.0, "total_ms": 2.0},
    }


class Echo:
    """Answers in a thread; `stall` keeps it silent for a time, `seen` are the commands."""

    def __init__(self, answer: Answer = well) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.rcvhwm = self._socket.sndhwm = 0
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.last_endpoint.decode()
        self.seen: list[dict[str, Any]] = []
        self.clients: set[bytes] = set()
        self._answer = answer
        self._over = threading.Event()
        self._stall_after: int | None = None
        self._stall_seconds = 0.0
        self._thread = threading.Thread(target=self._run)

    def stall(self, after: int, seconds: float) -> None:
        """Once, after so many commands."""
        self._stall_after, self._stall_seconds = after, seconds

    def __enter__(self) -> Echo:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        while not self._over.is_set():
            if not self._socket.poll(50):
                continue
            route, payload = self._socket.recv_multipart()
            command = msgspec.json.decode(payload)
            if command["action"] != "ping":
                self.seen.append(command)
                self.clients.add(route)
            if self._stall_after is not None and len(self.seen) >= self._stall_after:
                self._stall_after = None
                time.sleep(self._stall_seconds)
            reply = self._answer(command)
            if reply is not None:
                self._socket.send_multipart([route, msgspec.json.encode(reply)])
