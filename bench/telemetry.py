"""What a sample of telemetry takes, beside one RSS reading of psutil in the same run.

`python -m bench.telemetry [--gigabytes 2] [--device cuda:UUID]`: in this process, which first fills that much of its
memory in small pages, since the kernel's walk over them is what a sample can take long for. Milliseconds.
"""

from __future__ import annotations

import argparse
import mmap
import statistics
import sys
import time
from collections.abc import Callable

import psutil
from msgspec import Struct

from bench.record import Machine, machine, write
from protocol.link import WorkerSpec
from ramtier.tier import PrivateTier
from worker.__main__ import open_device
from worker.engine import Engine

SAMPLES = 2000


class Spread(Struct, frozen=True, kw_only=True):
    """Milliseconds."""

    median: float
    p99: float
    longest: float


class Result(Struct, frozen=True, kw_only=True):
    """`ratio` is a sample's median to psutil's."""

    machine: Machine
    gigabytes: float
    sample: Spread
    psutil_rss: Spread
    ratio: float


def spread(call: Callable[[], object]) -> Spread:
    """How long a call takes, over `SAMPLES` of them."""
    taken = []
    for _ in range(SAMPLES):
        began = time.perf_counter()
        call()
        taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return Spread(median=statistics.median(taken), p99=taken[SAMPLES * 99 // 100], longest=taken[-1])


def filled(gigabytes: float) -> mmap.mmap:
    """Memory of this process, every page of it its own."""
    memory = mmap.mmap(-1, max(mmap.PAGESIZE, int(gigabytes * (1 << 30))), flags=mmap.MAP_PRIVATE)
    for offset in range(0, len(memory), mmap.PAGESIZE):
        memory[offset] = 1
    return memory


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--device", default="cpu", help="cpu, or cuda:UUID as NVML has it")
    options = parser.parse_args()
    kind, _, uuid = options.device.partition(":")
    spec = WorkerSpec(
        device_id=f"{kind}:0",
        link="",
        generation=1,
        runtime="",
        outputs="",
        model_roots=[],
        budget_bytes=4 << 30,
        ram_budget_bytes=0,
        heartbeat_ms=500,
        telemetry_ms=1000,
        cuda_uuid=uuid,
    )
    engine = Engine(spec, open_device(spec), lambda _: None, ram=PrivateTier(0))
    memory = filled(options.gigabytes)
    sample, psutil_rss = spread(engine.sample), spread(psutil.Process().memory_info)
    memory.close()
    result = Result(
        machine=machine(),
        gigabytes=options.gigabytes,
        sample=sample,
        psutil_rss=psutil_rss,
        ratio=sample.median / psutil_rss.median,
    )
    sys.stdout.write(
        f"a sample: {sample.median:.3f} ms, p99 {sample.p99:.3f}, longest {sample.longest:.2f}; "
        f"psutil's RSS alone {psutil_rss.median:.3f}: {result.ratio:.1f} x\n"
    )
    write("telemetry", result)


if __name__ == "__main__":
    main()
