"""What two cpu devices cost each other: time per step of one alone, and of both at once, by threads for each worker.

`python -m bench.threads [--pictures 4]`: a whole `vrambroker serve` with two cpu devices for each count of threads: the
share of the cores that is the default, and all of them for each worker, as torch would take without being told.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from functools import partial
from pathlib import Path

from msgspec import Struct

from bench.record import Machine, machine, write
from bench.rigs import Server
from client.sync import Client
from demo.models import make_models
from settings.host import cores

DEVICES = ("cpu:0", "cpu:1")
MODEL = "tiny-sd15"
STEPS = 8


class Threads(Struct, frozen=True, kw_only=True):
    """Milliseconds per step, the median over all steps drawn."""

    threads: int
    alone_ms: float
    together_ms: float
    ratio: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    cores: int
    share: Threads
    everything: Threads
    gain: float
    """Time per step together with all cores for each, to that with its share."""


def draw(address: str, device: str, pictures: int, found: list[float]) -> None:
    """So many pictures on one device, their times per step into `found`."""
    with Client(address) as client:
        for seed in range(pictures):
            answer = client.generate(MODEL, "a boat", device_id=device, steps=STEPS, seed=seed, width=256, height=256)
            found.append(float(answer.reply.timing.per_step_ms))


def both(address: str, pictures: int) -> list[float]:
    """Each device draws at the same time."""
    found: list[float] = []
    drawing = [threading.Thread(target=draw, args=(address, device, pictures, found)) for device in DEVICES]
    for one in drawing:
        one.start()
    for one in drawing:
        one.join()
    return found


def measure(threads: int, pictures: int) -> Threads:
    """One broker whose workers compute with so many threads."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(f"worker_threads = {threads}\n")
        file.flush()
        with Server("cpu:2", partial(make_models, only=[MODEL]), config=file.name) as server:
            both(server.address, 1)
            alone: list[float] = []
            draw(server.address, DEVICES[0], pictures, alone)
            together = both(server.address, pictures)
    one, two = statistics.median(alone), statistics.median(together)
    return Threads(threads=threads, alone_ms=one, together_ms=two, ratio=two / one)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=4)
    pictures = parser.parse_args().pictures
    there = cores()
    share = measure(max(1, there // len(DEVICES)), pictures)
    everything = measure(there, pictures)
    gain = everything.together_ms / share.together_ms
    path = write("threads", Result(machine=machine(), cores=there, share=share, everything=everything, gain=gain))
    for name, one in (("its share", share), ("all cores", everything)):
        print(f"{name}: {one.threads} threads, {one.alone_ms:.1f} ms a step alone, {one.together_ms:.1f} ms together")
    print(f"beside each other {gain:.1f} times faster with a share; {Path(path).name}")


if __name__ == "__main__":
    main()
