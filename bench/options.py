"""What each option of a load costs and gives: bytes on the device, a run's peak, a step's time, the picture's change.

`python -m bench.options [--device cpu] [--side 128] [--steps 3]`: a whole `vrambroker serve` over a Stable Diffusion
1.5 of the real size with random weights in Float16, driven by the client; every option beside the model as it is, in
one run. The difference is the mean of all pixels' (0-255) against the picture of the model as it is, with the same
seed. Random weights draw noise, which magnifies every rounding: what is not 0 is no measure of quality.
"""

from __future__ import annotations

import argparse
import io
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from PIL import Image

from bench.record import Machine, machine, write
from bench.residency import MODEL, PATIENCE_SECONDS, ROOT
from bench.rigs import Server
from client.sync import Client
from protocol.enums import ModelPrecision
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization, ModelPerformanceOptimization
from protocol.replies import OptionOutcome

RUNS = 3
"""Pictures of each option; the first is warm-up."""

OPTIONS: dict[str, ModelLoadConfiguration] = {
    "as it is": ModelLoadConfiguration(),
    "Float32": ModelLoadConfiguration(precision=ModelPrecision.Float32),
    "Int8": ModelLoadConfiguration(precision=ModelPrecision.Int8),
    "Float8": ModelLoadConfiguration(precision=ModelPrecision.Float8),
    "Int4": ModelLoadConfiguration(precision=ModelPrecision.Int4),
    "attention slicing": ModelLoadConfiguration(
        memory_optimization=ModelMemoryOptimization(enable_attention_slicing=True)
    ),
    "flash attention": ModelLoadConfiguration(
        performance_optimization=ModelPerformanceOptimization(enable_flash_attention=True)
    ),
    "CPU offloading": ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(enable_cpu_offloading=True)),
    "splitting": ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(enable_model_splitting=True)),
    "Int8 and splitting": ModelLoadConfiguration(
        precision=ModelPrecision.Int8, memory_optimization=ModelMemoryOptimization(enable_model_splitting=True)
    ),
}


class Row(Struct, frozen=True, kw_only=True):
    """One option: bytes at rest and at the peak, milliseconds, the mean difference of pixels, and what was answered."""

    bytes: int
    peak_bytes: int
    load_ms: float
    step_ms: float
    picture_ms: float
    difference: float
    step_ratio: float
    options: list[OptionOutcome]


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    device: str
    side: int
    steps: int
    rows: dict[str, Row]
    int8_saves: float


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)), dtype=float)


def measure(client: Client, side: int, steps: int) -> dict[str, Row]:
    device = next(iter(client.devices().devices)).device_id
    rows: dict[str, Row] = {}
    first: np.ndarray[Any, Any] | None = None
    for name, configuration in OPTIONS.items():
        loaded = client.load(MODEL, device_id=device, configuration=configuration, timeout_seconds=PATIENCE_SECONDS)
        drawn = [
            client.generate(
                MODEL, "a boat", steps=steps, width=side, height=side, seed=1, timeout_seconds=PATIENCE_SECONDS
            )
            for _ in range(RUNS)
        ]
        steps_ms = [one.reply.timing.per_step_ms or 0.0 for one in drawn[1:]]
        totals_ms = [one.reply.timing.total_ms for one in drawn[1:]]
        memory = client.status(MODEL, device_id=device).memory_usage
        picture = pixels(drawn[-1].attachments[0])
        first = picture if first is None else first
        step_ms = statistics.median(steps_ms)
        rows[name] = Row(
            bytes=loaded.memory_usage,
            peak_bytes=memory.total_memory_bytes if memory is not None else 0,
            load_ms=loaded.load_time,
            step_ms=step_ms,
            picture_ms=statistics.median(totals_ms),
            difference=float(np.abs(picture - first).mean()),
            step_ratio=step_ms / rows["as it is"].step_ms if rows else 1.0,
            options=loaded.options,
        )
        row = rows[name]
        print(
            f"{name:20} {row.bytes / 1e6:8.1f} MB  peak {row.peak_bytes / 1e6:8.1f} MB  load {row.load_ms:7.0f} ms  "
            f"step {row.step_ms:7.1f} ms ({row.step_ratio:.2f})  picture {row.picture_ms:7.0f} ms  "
            f"differs by {row.difference:.2f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cuda", "cpu"])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    options = parser.parse_args()
    before = machine()

    def make_models(folder: Path) -> None:
        command = [sys.executable, "-P", "-m", "bench.residency", "--role", "make", "--folder", str(folder / MODEL)]
        subprocess.run([*command, f"--device={options.device}"], check=True, cwd=ROOT)

    devices, budget = ("cuda:0", {}) if options.device == "cuda" else ("cpu:1", {"vram": "8GiB"})
    with Server(devices, make_models, **budget) as server, Client(server.address) as client:
        name = next(iter(client.devices().devices)).name
        rows = measure(client, options.side, options.steps)
    saves = 1 - rows["Int8"].bytes / rows["as it is"].bytes
    result = Result(machine=before, device=name, side=options.side, steps=options.steps, rows=rows, int8_saves=saves)
    print(f"{name}: Int8 saves {saves:.1%} of the bytes (at least 45 % wanted)")
    print(write("options", result))


if __name__ == "__main__":
    main()
