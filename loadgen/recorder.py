"""A recorder: stands between clients and a broker, hands on every frame as it came, and writes down what was asked.

Each client has a connection of its own to the broker, under its own routing id where it chose one, so that the broker
sees as many clients as there are.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any

import msgspec
import zmq
from msgspec import Struct

from client.curve import CurveKeys
from loadgen import trace

IDLE_SECONDS = 900.0
"""A client that was silent for so long, and waits for nothing, has gone."""

TICK_MS = 200
MOST_AT_ONCE = 200
CHOSEN_BYTES = 255
FINAL = ("completed", "failed", "cancelled", "accepted")


class Read(Struct, frozen=True):
    """What is read of a reply, in snake_case or PascalCase."""

    request_id: str | None = None
    state: str = ""
    success: bool = False


class Client:
    """A client and its connection to the broker."""

    def __init__(self, number: int, socket: zmq.Socket[bytes]) -> None:
        self.number, self.socket = number, socket
        self.heard_at = time.monotonic()
        self.waiting = 0


class Recorder:
    """Owns the sockets; `run` returns once `stop` was called. Raises zmq.ZMQError where it cannot listen."""

    def __init__(
        self, listen: str, broker: str, stream: IO[bytes], *, keys: CurveKeys | None = None, scrub: bool = False
    ) -> None:
        self._broker, self._stream, self._keys, self._scrub = broker, stream, keys, scrub
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.linger = 500
        self._front.sndhwm = self._front.rcvhwm = 0
        self._front.bind(listen)
        self.address = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller = zmq.Poller()
        self._poller.register(self._front, zmq.POLLIN)
        self._clients: dict[bytes, Client] = {}
        self._routes: dict[zmq.Socket[bytes], bytes] = {}
        self._count = 0
        self._start = time.monotonic()
        self._stopped = False
        self.commands = self.answers = 0
        trace.write(stream, trace.Head(started_at=datetime.now(UTC).isoformat(), scrubbed=scrub))

    def stop(self) -> None:
        """End; what was read is written."""
        self._stopped = True

    def run(self, tell: Callable[[int, int], None] | None = None) -> None:
        """Hand on and write down until stopped. Raises OSError where the recording cannot be written."""
        try:
            while not self._stopped:
                for socket, _ in self._poller.poll(TICK_MS):
                    if socket is self._front:
                        self._from_clients()
                    else:
                        self._from_broker(socket)
                self._forget_idle()
                if tell is not None:
                    tell(self.commands, self.answers)
        finally:
            self._stream.flush()
            self._context.destroy(linger=500)

    def _client(self, route: bytes) -> Client:
        found = self._clients.get(route)
        if found is None:
            socket = self._context.socket(zmq.DEALER)
            socket.linger = 500
            socket.sndhwm = socket.rcvhwm = 0
            if route and not route.startswith(b"\0") and len(route) <= CHOSEN_BYTES:
                socket.setsockopt(zmq.IDENTITY, route)
            if self._keys is not None:
                self._keys.apply(socket)
            socket.connect(self._broker)
            self._poller.register(socket, zmq.POLLIN)
            self._count += 1
            found = self._clients[route] = Client(self._count, socket)
            self._routes[socket] = route
        return found

    def _from_clients(self) -> None:
        for _ in range(MOST_AT_ONCE):
            try:
                route, *frames = self._front.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            client = self._client(route)
            client.heard_at = time.monotonic()
            client.waiting += 1
            client.socket.send_multipart(frames)
            payload, attachments = _split(frames)
            self.commands += 1
            at = client.heard_at - self._start
            trace.write(self._stream, trace.command(at, client.number, payload, attachments, scrub=self._scrub))

    def _from_broker(self, socket: zmq.Socket[bytes]) -> None:
        route = self._routes[socket]
        client = self._clients[route]
        for _ in range(MOST_AT_ONCE):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            client.heard_at = time.monotonic()
            self._front.send_multipart([route, *frames])
            self._note(client, _split(frames)[0])

    def _note(self, client: Client, payload: bytes) -> None:
        found = _read(payload)
        if found is None or found.state not in FINAL:
            return
        client.waiting -= 1
        self.answers += 1
        answer = trace.Answer(
            at=client.heard_at - self._start,
            client=client.number,
            request_id=found.request_id or "",
            state=found.state,
            success=found.success,
        )
        trace.write(self._stream, answer)

    def _forget_idle(self) -> None:
        until = time.monotonic() - IDLE_SECONDS
        for route in [route for route, one in self._clients.items() if one.heard_at < until and one.waiting <= 0]:
            client = self._clients.pop(route)
            del self._routes[client.socket]
            self._poller.unregister(client.socket)
            client.socket.close(0)


def _split(frames: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The payload and the attachments behind an envelope: none, an empty frame, or a correlation and an empty one."""
    if frames and not frames[0]:
        frames = frames[1:]
    elif len(frames) > 2 and len(frames[0]) == 4 and not frames[1]:
        frames = frames[2:]
    return (frames[0], frames[1:]) if frames else (b"", [])


def _read(payload: bytes) -> Read | None:
    """A reply as far as it is needed, in whichever spelling and encoding it is."""
    decode: Any = msgspec.json.decode if payload[:1] == b"{" else msgspec.msgpack.decode
    try:
        found = decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if not isinstance(found, dict):
        return None
    plain = {str(key).replace("_", "").lower(): value for key, value in found.items()}
    request_id, state = plain.get("requestid"), plain.get("state")
    return Read(request_id, str(state or ""), bool(plain.get("success")))
