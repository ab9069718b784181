"""What every peer is asked, what it answers, and how its figures are taken. It knows the standard library alone.

The 300-byte command and the 300-byte reply are those of `bench.broker` and `bench.rigs`, which need packages that a
peer's environment has not.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import signal
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import NamedTuple, TypeVar

PAYLOAD_BYTES = 300
REPLY = b'{"request_id":"' + b"0" * 12 + b'","action":"list_models","success":true,"state":"completed"}'.ljust(273)
WARM_UP_SECONDS = 1.0
_numbers = itertools.count()
Pending = TypeVar("Pending")


class Figures(NamedTuple):
    """One round with `in_flight` commands under way; round trips in microseconds."""

    in_flight: int
    per_second: float
    p50_us: float
    p99_us: float


class Options(NamedTuple):
    seconds: float
    in_flight: list[int]


def command() -> bytes:
    """A command of 300 bytes under an id of its own."""
    text = b'{"action":"list_models","request_id":"%012d","search_query":"' % next(_numbers)
    return text + b"x" * (PAYLOAD_BYTES - len(text) - 2) + b'"}'


def options() -> Options:
    """What the caller wants; from here on the end asked for with SIGTERM runs every `finally`."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[64, 1])
    given = parser.parse_args()
    return Options(given.seconds, given.in_flight)


def figures(in_flight: int, trips: list[float], elapsed: float) -> Figures:
    """Of round trips in seconds; the percentiles are taken as `bench.broker` takes them."""
    trips.sort()
    return Figures(in_flight, len(trips) / elapsed, trips[len(trips) // 2] * 1e6, trips[len(trips) * 99 // 100] * 1e6)


def check(reply: bytes) -> None:
    """A figure counts when the whole reply came."""
    if bytes(reply) != REPLY:
        raise SystemExit(f"the peer answered {bytes(reply)[:80]!r}, not the {len(REPLY)} bytes it was given")


def in_order(
    submit: Callable[[bytes], Pending], finish: Callable[[Pending], bytes], in_flight: int, seconds: float
) -> Figures:
    """Keep `in_flight` calls under way; the oldest is waited for, as one worker answers in order."""
    pending: deque[tuple[float, Pending]] = deque()
    trips: list[float] = []

    def send() -> None:
        pending.append((time.perf_counter(), submit(command())))

    for _ in range(in_flight):
        send()
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        sent, call = pending.popleft()
        reply = finish(call)
        trips.append(time.perf_counter() - sent)
        send()
    elapsed = time.perf_counter() - start
    for _, call in pending:
        reply = finish(call)
    check(reply)
    return figures(in_flight, trips, elapsed)


async def awaited(call: Callable[[bytes], Awaitable[bytes]], in_flight: int, seconds: float) -> Figures:
    """Keep `in_flight` calls under way, each in a task of its own that sends the next when the last is answered."""
    trips: list[float] = []
    end = time.perf_counter() + seconds

    async def one_after_another() -> None:
        reply = REPLY
        while (sent := time.perf_counter()) < end:
            reply = await call(command())
            trips.append(time.perf_counter() - sent)
        check(reply)

    start = time.perf_counter()
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    return figures(in_flight, trips, time.perf_counter() - start)


def report(peer: str, rows: list[Figures]) -> None:
    """The one line that the caller reads; what a peer prints itself comes before it."""
    line = {"peer": peer, "version": version(peer), "rows": [row._asdict() for row in rows]}
    print(json.dumps(line), flush=True)
