"""What a load from disk costs: a first load in a fresh process and those after it, beside the libraries and one copy.

`python -m bench.load [--rounds 5]`: a model of the size of Stable Diffusion 1.5 with random weights in Float16, just
written, so that it is in the page cache. Each round runs three processes one after the other, alternating: the worker's
engine on a cpu device, `from_pretrained` with a private copy of every weight, and one plain copy of as many bytes into
fresh memory. Imports are not counted. The ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from msgspec import Struct

from bench.record import Machine, machine, write
from bench.residency import make

ROOT = Path(__file__).parents[1]
MODEL = "sd15"
LOADS = 4
"""In each process; the first is the first of a fresh one."""

ROLES = ("worker", "libraries", "copy")


class Loads(Struct, frozen=True, kw_only=True):
    """Medians over the rounds: milliseconds of the first load, and of the median of those after it; bytes of memory at
    the highest, and what stayed after the last model was gone, above what the process had before its first."""

    first_ms: float
    later_ms: float
    peak_bytes: int
    left_bytes: int


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    model_bytes: int
    worker: Loads
    libraries: Loads
    copy: Loads
    first_ratio: float
    later_to_copy: float
    peak_ratio: float
    left_ratio: float


def worker(root: Path) -> dict[str, Any]:
    """Loads and unloads by the worker's engine."""
    from protocol import commands as c  # noqa: PLC0415
    from protocol.enums import ModelPrecision  # noqa: PLC0415
    from protocol.records import ModelLoadConfiguration  # noqa: PLC0415
    from tests.worker.bench import Bench, worker_spec  # noqa: PLC0415

    bench = Bench(root, worker_spec(root, budget_bytes=8 << 30, ram_budget_bytes=8 << 30))
    configuration = ModelLoadConfiguration(precision=ModelPrecision.Float16)

    def once() -> None:
        outcome = bench.run(c.LoadModel(model_id=MODEL, configuration=configuration), MODEL)
        if not outcome.reply.success:
            raise SystemExit(str(outcome.reply.error))

    return measured(once, lambda: bench.run(c.UnloadModel(model_id=MODEL, clear_cache=True)))


def libraries(root: Path) -> dict[str, Any]:
    """The same by diffusers, every weight a private copy, as a worker's has to be."""
    import gc  # noqa: PLC0415

    import torch  # noqa: PLC0415
    from diffusers import StableDiffusionPipeline  # noqa: PLC0415

    held: list[Any] = []

    def once() -> None:
        pipeline = StableDiffusionPipeline.from_pretrained(root / MODEL, dtype=torch.float16, local_files_only=True)
        for module in pipeline.components.values():
            if isinstance(module, torch.nn.Module):
                for tensor in (*module.parameters(), *module.buffers()):
                    tensor.data = tensor.data.clone()
        held.append(pipeline)

    def drop() -> None:
        held.clear()
        gc.collect()

    return measured(once, drop)


def copy(root: Path) -> dict[str, Any]:
    """One copy of as many bytes into memory that the process never had."""
    import mmap  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415

    size = model_bytes(root)
    source = np.ones(size, dtype=np.uint8)
    held: list[Any] = []

    def once() -> None:
        block = np.frombuffer(mmap.mmap(-1, size), dtype=np.uint8)
        block[:] = source
        held.append(block)

    return measured(once, held.clear)


def measured(once: Any, drop: Any) -> dict[str, Any]:
    process = psutil.Process()
    before, times, peak = process.memory_info().rss, [], 0
    for _ in range(LOADS):
        began = time.perf_counter()
        once()
        times.append((time.perf_counter() - began) * 1000)
        peak = max(peak, process.memory_info().rss)
        drop()
    return {"times": times, "peak": peak - before, "left": process.memory_info().rss - before}


def model_bytes(root: Path) -> int:
    return sum(file.stat().st_size for file in (root / MODEL).glob("*/*.safetensors"))


def loads(runs: list[dict[str, Any]]) -> Loads:
    return Loads(
        first_ms=statistics.median(run["times"][0] for run in runs),
        later_ms=statistics.median(statistics.median(run["times"][1:]) for run in runs),
        peak_bytes=int(statistics.median(run["peak"] for run in runs)),
        left_bytes=int(statistics.median(run["left"] for run in runs)),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--role", choices=("make", *ROLES), help="what a child of this command does")
    parser.add_argument("--root", type=Path)
    options = parser.parse_args()
    if options.role == "make":
        make(options.root / MODEL, "cpu")
    elif options.role:
        print(json.dumps({"worker": worker, "libraries": libraries, "copy": copy}[options.role](options.root)))
    else:
        report(options.rounds)


def report(rounds: int) -> None:
    before = machine()
    with tempfile.TemporaryDirectory(prefix="vrambroker-bench-") as folder:
        root = Path(folder)

        def child(role: str) -> str:
            command = [sys.executable, "-P", "-m", "bench.load", "--role", role, "--root", folder]
            return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout

        child("make")
        runs: dict[str, list[dict[str, Any]]] = {role: [] for role in ROLES}
        for _ in range(rounds):
            for role in ROLES:
                runs[role].append(json.loads(child(role).splitlines()[-1]))
        size = model_bytes(root)
    found = {role: loads(each) for role, each in runs.items()}
    for role, one in found.items():
        memory = f"peak {one.peak_bytes / size:.2f} x the model, {one.left_bytes / size:.1%} stays"
        print(f"{role:>9}: first {one.first_ms:6.0f} ms, later {one.later_ms:6.0f} ms, {memory}")
    ours, theirs, plain = found["worker"], found["libraries"], found["copy"]
    result = Result(
        machine=before,
        model_bytes=size,
        worker=ours,
        libraries=theirs,
        copy=plain,
        first_ratio=ours.first_ms / theirs.first_ms,
        later_to_copy=ours.later_ms / plain.later_ms,
        peak_ratio=ours.peak_bytes / size,
        left_ratio=ours.left_bytes / size,
    )
    print(f"first: {result.first_ratio:.2f} x the libraries; later: {result.later_to_copy:.2f} x one copy")
    print(write("load", result))


if __name__ == "__main__":
    main()
