"""Routed commands: the broker against libzmq's own C proxy, same client, same payloads, same run, interleaved.

`python -m bench.broker [--seconds 3] [--rounds 5]`. Commands are 300-byte `list_models`, each with its own request id.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import deque

import zmq
from msgspec import Struct

from bench.record import Machine, machine, write
from bench.rigs import Broker, Proxy

PAYLOAD_BYTES = 300
IN_FLIGHT = (64, 1)
_numbers = itertools.count()


class Round(Struct, frozen=True, kw_only=True):
    """One rig for some seconds; round trips in microseconds."""

    per_second: float
    p50_us: float
    p99_us: float


class Row(Struct, frozen=True, kw_only=True):
    """Medians over the rounds; the ratios are the broker's over the proxy's, taken round by round."""

    in_flight: int
    proxy: Round
    broker: Round
    throughput_ratio: float
    p50_ratio: float
    p99_ratio: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    seconds: float
    rounds: int
    payload_bytes: int
    lane: str
    rows: list[Row]


def command() -> bytes:
    """A command of 300 bytes under an id of its own."""
    text = b'{"action":"list_models","request_id":"%012d","search_query":"' % next(_numbers)
    return text + b"x" * (PAYLOAD_BYTES - len(text) - 2) + b'"}'


def drive(address: str, in_flight: int, seconds: float) -> Round:
    """Keep `in_flight` commands on their way; replies of one client come in order."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    sent: deque[float] = deque()
    trips: list[float] = []

    def send() -> None:
        sent.append(time.perf_counter())
        socket.send(command())

    for _ in range(in_flight):
        send()
    start = time.perf_counter()
    end = start + seconds
    while time.perf_counter() < end:
        socket.recv()
        trips.append(time.perf_counter() - sent.popleft())
        send()
    elapsed = time.perf_counter() - start
    for _ in range(in_flight):
        socket.recv()
    socket.close(linger=0)
    context.term()
    trips.sort()
    return Round(
        per_second=len(trips) / elapsed,
        p50_us=trips[len(trips) // 2] * 1e6,
        p99_us=trips[len(trips) * 99 // 100] * 1e6,
    )


def median(rounds: list[Round]) -> Round:
    """Each figure's median."""
    return Round(**{name: statistics.median(getattr(one, name) for one in rounds) for name in Round.__struct_fields__})


def compare(proxy: Proxy, broker: Broker, in_flight: int, seconds: float, rounds: int) -> Row:
    """Interleaved rounds of both rigs."""
    pairs = [
        (drive(proxy.address, in_flight, seconds), drive(broker.address, in_flight, seconds)) for _ in range(rounds)
    ]

    def ratio(name: str) -> float:
        return statistics.median(getattr(ours, name) / getattr(peer, name) for peer, ours in pairs)

    return Row(
        in_flight=in_flight,
        proxy=median([peer for peer, _ in pairs]),
        broker=median([ours for _, ours in pairs]),
        throughput_ratio=ratio("per_second"),
        p50_ratio=ratio("p50_us"),
        p99_ratio=ratio("p99_us"),
    )


def show(rows: list[Row]) -> None:
    print(f"{'in flight':>9}  {'rig':<10} {'commands/s':>11} {'p50 µs':>8} {'p99 µs':>8}")
    for row in rows:
        for name, figures in ((Proxy.name, row.proxy), (Broker.name, row.broker)):
            latencies = f"{figures.p50_us:>8.0f} {figures.p99_us:>8.0f}"
            print(f"{row.in_flight:>9}  {name:<10} {figures.per_second:>11,.0f} {latencies}")
        ratios = f"{row.throughput_ratio:>10.2f}x {row.p50_ratio:>7.2f}x {row.p99_ratio:>7.2f}x"
        print(f"{row.in_flight:>9}  {'ratio':<10} {ratios}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    before = machine()
    proxy, broker = Proxy(), Broker()
    try:
        for rig in (proxy, broker):
            drive(rig.address, IN_FLIGHT[0], 0.5)
        rows = [compare(proxy, broker, count, options.seconds, options.rounds) for count in IN_FLIGHT]
    finally:
        broker.close()
        proxy.close()
    show(rows)
    result = Result(
        machine=before,
        seconds=options.seconds,
        rounds=options.rounds,
        payload_bytes=PAYLOAD_BYTES,
        lane="catalog (list_models): the device lane's credit of 1 does not apply",
        rows=rows,
    )
    print(f"load average before: {before.load_average_before:.2f}; written to {write('broker', result)}")


if __name__ == "__main__":
    main()
