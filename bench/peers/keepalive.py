"""The client of the peers that speak HTTP: as many kept-alive connections as there are commands in flight.

Plain sockets and one poll object: an HTTP library would cost the client, and so the peer's figure, several times more.
"""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from bench.peers import echo

HOST = "127.0.0.1"
START_SECONDS = 60.0
REPLY_SECONDS = 20.0
STOP_SECONDS = 3.0
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection:
    """One kept-alive connection with at most one request on its way."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=REPLY_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._head = (
            f"POST {path} HTTP/1.1\r\nHost: {HOST}:{port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {echo.PAYLOAD_BYTES}\r\n\r\n"
        ).encode()
        self._received = b""
        self.sent = 0.0

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self._socket.sendall(self._head + echo.command())

    def receive(self) -> bytes | None:
        """The reply's body, or None while a part of it is missing; waits for the next part."""
        part = self._socket.recv(65536)
        if not part:
            raise ConnectionError("the server closed a kept-alive connection")
        self._received += part
        head, found, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head) if found else None
        if length is None or len(body) < int(length[1]):
            return None
        self._received = b""
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(f"the server answered {head[:80]!r}")
        return body

    def close(self) -> None:
        self._socket.close()


def drive(port: int, path: str, in_flight: int, seconds: float) -> echo.Figures:
    """Keep a request on each of `in_flight` connections."""
    connections = {one.fileno(): one for one in (Connection(port, path) for _ in range(in_flight))}
    poll = select.epoll()
    for number in connections:
        poll.register(number, select.EPOLLIN)
    trips: list[float] = []
    for one in connections.values():
        one.send()
    alone = list(connections) if in_flight == 1 else None
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        for number in alone or [ready for ready, _ in poll.poll()]:
            one = connections[number]
            body = one.receive()
            if body is not None:
                trips.append(time.perf_counter() - one.sent)
                one.send()
                reply = body
    elapsed = time.perf_counter() - start
    for one in connections.values():
        while one.receive() is None:
            pass
        one.close()
    poll.close()
    echo.check(reply)
    return echo.figures(in_flight, trips, elapsed)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(port: int, path: str) -> bool:
    with suppress(OSError):
        one = Connection(port, path)
        try:
            one.send()
            while one.receive() is None:
                pass
            return True
        finally:
            one.close()
    return False


@contextmanager
def serving(module: str, path: str) -> Iterator[int]:
    """`python -m module serve PORT PATH` from the first answered request on; gives the port."""
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-P", "-m", module, "serve", str(port), path], stdout=sys.stderr, start_new_session=True
    )
    try:
        end = time.monotonic() + START_SECONDS
        while not answers(port, path):
            if server.poll() is not None or time.monotonic() > end:
                raise SystemExit(f"{module} did not serve within {START_SECONDS:.0f} s")
            time.sleep(0.1)
        yield port
    finally:
        stop(server)


def stop(server: subprocess.Popen[bytes]) -> None:
    """Asked first; then the whole session, since a server that is asked may leave its workers behind."""
    server.terminate()
    with suppress(subprocess.TimeoutExpired):
        server.wait(timeout=STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()


def measure(peer: str, module: str, path: str) -> None:
    """Serve, warm up, drive and report."""
    options = echo.options()
    with serving(module, path) as port:
        drive(port, path, options.in_flight[0], echo.WARM_UP_SECONDS)
        rows = [drive(port, path, count, options.seconds) for count in options.in_flight]
    echo.report(peer, rows)
