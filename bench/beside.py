"""How soon the broker answers while the catalogue works: pings idle, and beside searches, lists, updates and scans.

`python -m bench.beside [--models 50000] [--seconds 5]`: a whole `vrambroker serve` over small files; one client pings,
another process sends one command of the catalogue after the other. Of two cores two such processes take both: what
pings wait beside two that only count stands in the row `counting`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import zmq
from msgspec import Struct

from bench.busy import Pings, ping
from bench.catalogue import make_models, vocabulary
from bench.record import Machine, machine, write
from bench.rigs import Server

FACTOR = 3.0
"""How much slower than idle the wire allows a ping to be."""


spawn = multiprocessing.get_context("spawn")


class Beside(Struct, frozen=True, kw_only=True):
    """Pings beside one kind of command, how many of those were answered, and the slowest hundredth against idle."""

    pings: Pings
    commands: int
    p99_ratio: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    models: int
    idle: Pings
    counting: Pings
    beside: dict[str, Beside]


def call(address: str, name: str, words: list[str], ids: list[str], pipe: Connection) -> None:
    """In a process of its own: one command after the other until the pipe says enough; then their number."""
    command, done = commands(words, ids)[name], 0
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(address)
        while not pipe.poll():
            ask(socket, command(done))
            done += 1
    pipe.send(done)


def ask(socket: zmq.Socket[bytes], command: dict[str, object]) -> dict[str, object]:
    """The reply to a command, which has to be a success."""
    socket.send(json.dumps(command).encode())
    reply: dict[str, object] = json.loads(socket.recv_multipart()[0])
    if not reply["success"]:
        raise SystemExit(f"{command['action']} failed: {reply['message']}")
    return reply


def first_page(address: str) -> list[str]:
    """The ids of a page, once the catalogue answers: its first scan is done then."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.connect(address)
        command: dict[str, object] = {"action": "list_models", "page_size": 1000, "timeout_seconds": 600}
        models = ask(socket, command)["models"]
        assert isinstance(models, list)
        return [model["id"] for model in models]


def commands(words: list[str], ids: list[str]) -> dict[str, Callable[[int], dict[str, object]]]:
    """What the catalogue is asked, by name: the number of a command → the command."""
    return {
        "search": lambda n: {"action": "search_models", "query": words[n % len(words)][:3]},
        "list": lambda n: {"action": "list_models", "model_type": "SDXL", "page": 1 + n % 50},
        "update": lambda n: {
            "action": "update_metadata",
            "model_id": ids[n % len(ids)],
            "metadata": {"rating": n % 5},
        },
        "scan": lambda _: {"action": "scan_models", "hash": "none"},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    options = parser.parse_args()
    before, chance = machine(), random.Random(1)
    words = vocabulary(chance, 8000)

    def make(folder: Path) -> None:
        make_models(folder, options.models, chance, words)

    with Server("virtual:1", make) as server:
        ids = first_page(server.address)
        time.sleep(5.0)
        idle = ping(server.address, options.seconds)
        print(f"{'idle':>8}: p50 {idle.p50_us:>6.0f} µs, p99 {idle.p99_us:>6.0f} µs")
        counting, _ = beside(count, server.address, options.seconds, processes=2)
        print(f"{'counting':>8}: p50 {counting.p50_us:>6.0f} µs, p99 {counting.p99_us:>6.0f} µs")
        found = {}
        for name in commands(words, ids):
            pings, done = beside(partial(call, server.address, name, words, ids), server.address, options.seconds)
            found[name] = Beside(pings=pings, commands=done, p99_ratio=pings.p99_us / idle.p99_us)
            one = found[name]
            figures = f"p50 {one.pings.p50_us:>6.0f} µs, p99 {one.pings.p99_us:>6.0f} µs"
            print(f"{name:>8}: {figures}, {one.p99_ratio:.2f} x idle (target {FACTOR:g}), {one.commands} commands")
    print(write("beside", Result(machine=before, models=options.models, idle=idle, counting=counting, beside=found)))


def count(pipe: Connection) -> None:
    """In a process of its own: counts until the pipe says enough."""
    done = 0
    while not pipe.poll():
        done += sum(1 for _ in range(100_000))
    pipe.send(done)


def beside(target: Callable[[Connection], None], address: str, seconds: float, processes: int = 1) -> tuple[Pings, int]:
    """Pings while other processes work, and what those had done."""
    pipes = [spawn.Pipe() for _ in range(processes)]
    callers = [spawn.Process(target=target, args=(there,), daemon=True) for _, there in pipes]
    for caller in callers:
        caller.start()
    time.sleep(2.0)
    pings = ping(address, seconds)
    for here, _ in pipes:
        here.send("enough")
    done = sum(here.recv() for here, _ in pipes)
    for caller in callers:
        caller.join()
    return pings, done


if __name__ == "__main__":
    main()
