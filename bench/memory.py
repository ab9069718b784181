"""What the broker's process holds while commands go through it: resident memory over a million of them.

`python -m bench.memory [--commands 1000000]`: 300-byte `list_models`, 64 in flight, each with its own request id, so
that each leaves a stored reply; and as many pings, which leave nothing.
"""

from __future__ import annotations

import argparse

import psutil
import zmq
from msgspec import Struct

from bench.broker import command
from bench.record import Machine, machine, write
from bench.rigs import Broker

IN_FLIGHT = 64
SAMPLES = 10


class Growth(Struct, frozen=True, kw_only=True):
    """Resident bytes after each tenth of the commands; growth is that of the last nine tenths."""

    kind: str
    commands: int
    rss_bytes: list[int]
    bytes_per_command: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    rows: list[Growth]


def ping() -> bytes:
    """The smallest command."""
    return b'{"action":"ping"}'


def grow(broker: Broker, kind: str, commands: int) -> Growth:
    """Send and receive, and look at the process ten times."""
    make = command if kind == "stored" else ping
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(broker.address)
    process = psutil.Process(broker.pid)
    for _ in range(IN_FLIGHT):
        socket.send(make())
    sizes = []
    for done in range(1, commands + 1):
        socket.recv()
        socket.send(make())
        if done % (commands // SAMPLES) == 0:
            sizes.append(process.memory_info().rss)
    for _ in range(IN_FLIGHT):
        socket.recv()
    context.destroy(linger=0)
    growth = (sizes[-1] - sizes[0]) / (commands * (SAMPLES - 1) / SAMPLES)
    return Growth(kind=kind, commands=commands, rss_bytes=sizes, bytes_per_command=growth)


def main() -> None:
    """Print both and write `bench/results/memory.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=1_000_000)
    commands = parser.parse_args().commands
    before = machine()
    broker = Broker()
    try:
        rows = [grow(broker, kind, commands) for kind in ("ping", "stored")]
    finally:
        broker.close()
    for row in rows:
        sizes = " ".join(f"{size / (1 << 20):.0f}" for size in row.rss_bytes)
        print(f"{row.kind:>6}: {row.bytes_per_command:.1f} bytes a command; MiB after each tenth: {sizes}")
    written = write("memory", Result(machine=before, rows=rows))
    print(f"load average before: {before.load_average_before:.2f}; written to {written}")


if __name__ == "__main__":
    main()
