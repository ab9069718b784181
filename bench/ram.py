"""What the machine's RAM tier saves and costs: one copy for two workers, a load from it, a killed worker's model.

`python -m bench.ram [--runs 5]`: a whole `vrambroker serve` with two cpu devices over a model of the size of Stable
Diffusion 1.5 with random weights in Float16, driven by the client. Memory is the proportional set size of all its
processes and the tier's memory files, above what they had before the first load. A load from the tier stands beside
one copy of as many bytes between blocks that the process has touched already, in the same run; a load of what is on the
device beside the quickest command that goes to a worker and back. The ratios are what counts.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from msgspec import Struct

from bench.record import Machine, machine, write
from bench.residency import MODEL
from bench.rigs import Server
from client.sync import Client
from protocol.enums import DeviceState, LoadSource, ModelPrecision
from protocol.records import ModelLoadConfiguration

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 600.0
ROUTED = 300
"""Commands of each kind, alternating, that a resident load and a routed one are timed by."""

SETTLE_SECONDS = 16.0
FIRST, SECOND = "cpu:0", "cpu:1"
AS_FILED = ModelLoadConfiguration(precision=ModelPrecision.Float16)


class Result(Struct, frozen=True, kw_only=True):
    """Medians in milliseconds, bytes, and their ratios."""

    machine: Machine
    model_bytes: int
    one_worker_bytes: int
    two_workers_bytes: int
    two_to_one: float
    disk_ms: float
    ram_ms: float
    copy_ms: float
    ram_to_copy: float
    second_device_source: str
    killed_worker_source: str
    killed_worker_ms: float
    resident_ms: float
    routed_ms: float
    resident_to_routed: float
    left_bytes: int


def total_bytes(pid: int) -> int:
    """Memory of a process and its children, shared pages by their share, with the memory files of the tier."""
    processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    resident = sum(process.memory_full_info().pss for process in processes)
    files = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if str(link.readlink()).startswith("/memfd:"):
            files += link.stat().st_blocks * 512
    return int(resident + files)


def settled(pid: int) -> int:
    """`total_bytes` once copies between commands are done, and memory that waits for the next load has gone back."""
    time.sleep(SETTLE_SECONDS)
    return total_bytes(pid)


def timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1000


def load(client: Client, device: str) -> LoadSource:
    reply = client.load(MODEL, device_id=device, configuration=AS_FILED, timeout_seconds=PATIENCE_SECONDS)
    assert reply.cache is not None
    return reply.cache.source


def copy_ms(size: int, runs: int) -> float:
    """One copy of as many bytes between blocks whose pages are all there."""
    source, target = np.ones(size, dtype=np.uint8), np.ones(size, dtype=np.uint8)
    return statistics.median(timed(lambda: np.copyto(target, source)) for _ in range(runs))


def killed(client: Client, device: str) -> None:
    """Kill a device's worker, and wait for the next one."""
    before = {one.device_id: one for one in client.devices().devices}[device]
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    while True:
        now = {one.device_id: one for one in client.devices().devices}[device]
        if now.generation > before.generation and now.state is DeviceState.READY:
            return
        time.sleep(0.05)


def round_trips(client: Client) -> tuple[float, float]:
    """Of a load of what is on the device, and of the quickest command that goes to its worker."""
    routed, resident = [], []
    for _ in range(ROUTED):
        routed.append(timed(lambda: client.unpin(MODEL, device_id=FIRST)))
        resident.append(timed(lambda: load(client, FIRST)))
    return statistics.median(resident), statistics.median(routed)


def measure(client: Client, pid: int, before: Machine, runs: int) -> Result:
    empty = settled(pid)
    disk, ram = [], []
    size = 0
    for _ in range(runs):
        disk.append(timed(lambda: load(client, FIRST)))
        size = next(one for one in client.devices().devices if one.device_id == FIRST).used_vram
        client.unload(MODEL, device_id=FIRST)
        ram.append(timed(lambda: load(client, FIRST)))
        client.unload(MODEL, device_id=FIRST, clear_cache=True)
    copy = copy_ms(size, runs)
    load(client, FIRST)
    client.unload(MODEL, device_id=FIRST)
    one = settled(pid) - empty
    second = load(client, SECOND)
    client.unload(MODEL, device_id=SECOND)
    two = settled(pid) - empty
    load(client, FIRST)
    resident, routed = round_trips(client)
    settled(pid)
    killed(client, FIRST)
    sources: list[LoadSource] = []
    back = timed(lambda: sources.append(load(client, FIRST)))
    for device in (FIRST, SECOND):
        client.unload(MODEL, device_id=device, clear_cache=True)
    return Result(
        machine=before,
        model_bytes=size,
        one_worker_bytes=one,
        two_workers_bytes=two,
        two_to_one=two / one,
        disk_ms=statistics.median(disk),
        ram_ms=statistics.median(ram),
        copy_ms=copy,
        ram_to_copy=statistics.median(ram) / copy,
        second_device_source=second.value,
        killed_worker_source=sources[0].value,
        killed_worker_ms=back,
        resident_ms=resident,
        routed_ms=routed,
        resident_to_routed=resident / routed,
        left_bytes=settled(pid) - empty,
    )


def make_models(folder: Path) -> None:
    command = [sys.executable, "-P", "-m", "bench.residency", "--device", "cpu", "--role", "make"]
    subprocess.run([*command, "--folder", str(folder / MODEL)], check=True, capture_output=True, cwd=ROOT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    before = machine()
    with Server("cpu:2", make_models, vram="4GiB", ram="5GiB") as server, Client(server.address) as client:
        result = measure(client, server.pid, before, options.runs)
    print(f"one worker {result.one_worker_bytes / 1e9:.2f} GB, two {result.two_workers_bytes / 1e9:.2f} GB")
    print(f"from disk {result.disk_ms:.0f} ms, from RAM {result.ram_ms:.0f} ms, one copy {result.copy_ms:.0f} ms")
    print(f"a second device loads from {result.second_device_source}")
    print(f"a killed worker's model is back from {result.killed_worker_source} in {result.killed_worker_ms:.0f} ms")
    print(f"resident load {result.resident_ms:.2f} ms, routed command {result.routed_ms:.2f} ms")
    print(f"{result.left_bytes / 1e6:.1f} MB more at the end")
    print(
        f"ratios: two workers {result.two_to_one:.2f}, from RAM {result.ram_to_copy:.2f},"
        f" resident {result.resident_to_routed:.2f}"
    )
    print(write("ram", result))


if __name__ == "__main__":
    main()
