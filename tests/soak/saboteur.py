"""Stands between clients and a broker and does once what must never happen: a reply lost, doubled, of other bytes."""

from __future__ import annotations

import threading
from typing import Any

import msgspec
import zmq

DONE = 40
"""Commands that go by unharmed before."""


class Saboteur:
    """Hands every frame on, but for its one deed: `lose`, `double`, `spoil`, or none."""

    def __init__(self, broker: str, deed: str) -> None:
        self._broker, self._deed = broker, deed
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.linger = 0
        self._front.bind("tcp://127.0.0.1:0")
        self.address = self._front.last_endpoint.decode()
        self._backs: dict[bytes, Any] = {}
        self._over = threading.Event()
        self._seen = 0
        self._lost = ""
        self.done = 0
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Saboteur:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._front, zmq.POLLIN)
        while not self._over.is_set():
            for socket, _ in poller.poll(50):
                if socket is self._front:
                    route, *frames = self._front.recv_multipart()
                    if route not in self._backs:
                        back = self._backs[route] = self._context.socket(zmq.DEALER)
                        back.linger = 0
                        back.connect(self._broker)
                        poller.register(back, zmq.POLLIN)
                    self._backs[route].send_multipart(frames)
                else:
                    route = next(name for name, back in self._backs.items() if back is socket)
                    for frames in self._spoilt(socket.recv_multipart()):
                        self._front.send_multipart([route, *frames])

    def _spoilt(self, frames: list[bytes]) -> list[list[bytes]]:
        """What goes on in place of a reply."""
        reply = msgspec.json.decode(frames[0])
        request_id = str(reply.get("request_id"))
        final = (
            reply.get("state") == "completed"
            and request_id.startswith("soak")
            and not request_id.startswith("soak-devices")
        )
        self._seen += final
        if self._deed == "lose" and request_id == self._lost:
            return []
        fitting = final and self._seen > DONE and not self.done
        if self._deed == "lose" and fitting:
            self.done, self._lost = 1, request_id
            return []
        if self._deed == "double" and fitting:
            self.done = 1
            return [frames, frames]
        if self._deed == "spoil" and fitting and len(frames) > 1 and _has_seed(request_id, reply):
            self.done = 1
            return [[frames[0], frames[1] + b"\x00", *frames[2:]]]
        return [frames]


def _has_seed(_: str, reply: dict[str, Any]) -> bool:
    """Whether the picture is one of the seeds that are drawn again and again."""
    return reply.get("seed") in (1, 2, 3)
