"""How soon the broker answers while its devices work: ping round trips idle, and with 8 virtual devices loading and
generating.

`python -m bench.busy [--seconds 5]`: a whole `vrambroker serve`, real processes on every link; one client pings, others
keep loads and pictures in flight on every device.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from pathlib import Path

import zmq
from msgspec import Struct

from bench.record import Machine, machine, write
from bench.rigs import Server

DEVICES = 8
MODELS = 16


class Pings(Struct, frozen=True, kw_only=True):
    """Round trips in microseconds, and how many."""

    count: int
    p50_us: float
    p99_us: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    devices: int
    idle: Pings
    busy: Pings
    p99_ratio: float
    commands_done: int


def ping(address: str, seconds: float) -> Pings:
    """One ping after the other, a hundredth of a second apart as a watching host would."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    trips = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        socket.send(b'{"action":"ping"}')
        socket.recv()
        trips.append((time.perf_counter() - began) * 1e6)
        time.sleep(0.01)
    context.destroy(linger=0)
    trips.sort()
    return Pings(count=len(trips), p50_us=trips[len(trips) // 2], p99_us=trips[len(trips) * 99 // 100])


class Load(threading.Thread):
    """Keeps two commands in flight for each device until told to stop; counts those that were done."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.over = threading.Event()
        self._address = address
        self._sent = 0

    def run(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.connect(self._address)
        for _ in range(2 * DEVICES):
            self._send(socket)
        while not self.over.is_set():
            if not socket.poll(100):
                continue
            reply = json.loads(socket.recv_multipart()[0])
            if not reply["success"]:
                raise SystemExit(f"a command failed: {reply['message']}")
            self.done += 1
            self._send(socket)
        context.destroy(linger=0)

    def _send(self, socket: zmq.Socket[bytes]) -> None:
        self._sent += 1
        model = f"model-{self._sent % MODELS}"
        if self._sent % 3:
            command = {"action": "generate", "model_id": model, "prompt": "x", "steps": 4, "width": 64, "height": 64}
        else:
            command = {"action": "load_model", "model_id": model}
        socket.send(json.dumps(command).encode())


def profiles(folder: Path) -> None:
    """Models of 1 GiB for virtual devices of 4 GiB: some fit, the others are evicted."""
    for index in range(MODELS):
        content = {
            "family": "SDXL",
            "bytes": 1 << 30,
            "load_ms": 200,
            "step_ms": 20,
            "peak_bytes": (1 << 30) + (64 << 20),
            "components": {"unet": (1 << 30) - 1024, "vae": 1024},
        }
        (folder / f"model-{index}.vmodel.json").write_text(json.dumps(content))


def main() -> None:
    """Print both and their ratio, and write `bench/results/busy.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each of the two measurements")
    seconds = parser.parse_args().seconds
    before = machine()
    with Server(f"virtual:{DEVICES}", profiles, vram="4GiB") as server:
        ping(server.address, 0.5)
        idle = ping(server.address, seconds)
        load = Load(server.address)
        load.start()
        time.sleep(1.0)
        busy = ping(server.address, seconds)
        load.over.set()
        load.join()
    result = Result(
        machine=before,
        devices=DEVICES,
        idle=idle,
        busy=busy,
        p99_ratio=busy.p99_us / idle.p99_us,
        commands_done=load.done,
    )
    for name, pings in (("idle", idle), ("busy", busy)):
        print(f"{name:>5}: p50 {pings.p50_us:>7.0f} µs, p99 {pings.p99_us:>7.0f} µs ({pings.count} pings)")
    print(f"ratio of p99: {result.p99_ratio:.2f}x, with {load.done} commands done meanwhile")
    print(f"load average before: {before.load_average_before:.2f}; written to {write('busy', result)}")


if __name__ == "__main__":
    main()
