"""What a model is worth: how long a validation takes, whether a benchmark's times are true, whether digits are digits.

`python -m bench.worth [--device cpu] [--digits 20]`: a whole `vrambroker serve`, driven by the client. Validation of a
Stable Diffusion 1.5 of the real size, and of the digits' model, at each level, twice: the first, and the median of the
next ones. A benchmark's average beside the same runs by `generate`, timed from outside. Of each digit so many pictures,
in Float32 and in Int8, read by the reader that was trained beside the model.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from msgspec import Struct

from bench.record import Machine, machine, write
from bench.residency import MODEL, PATIENCE_SECONDS, ROOT
from bench.rigs import Server
from client.sync import Client
from demo.digits.reading import MODEL as DIGITS_FOLDER
from demo.digits.reading import prompt_of, read_digit
from protocol.enums import ModelPrecision, ValidationLevel
from protocol.records import ModelBenchmarkConfiguration, ModelLoadConfiguration

DIGITS = "digits"
AGAIN = 9
RUNS = 10


class Validation(Struct, frozen=True, kw_only=True):
    """Milliseconds: of the first, and the median of those after it; of the latter without digests."""

    first_ms: float
    again_ms: float
    again_without_hash_ms: float


class Result(Struct, frozen=True, kw_only=True):
    """`benchmark_ratio`: the benchmark's average to the same runs timed from outside; shares of digits read rightly."""

    machine: Machine
    device: str
    validations: dict[str, dict[str, Validation]]
    benchmark_ratio: float
    digits_right: dict[str, float]


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    found = call()
    return (time.perf_counter() - began) * 1000, found


def validations(client: Client, model_id: str) -> dict[str, Validation]:
    rows = {}
    for level in ValidationLevel:
        times, without = [], []
        for _ in range(1 + AGAIN):
            ms, reply = timed(
                lambda level=level: client.validate(model_id, validation_level=level, timeout_seconds=600)
            )
            assert reply.is_valid, reply.issues
            hashing = reply.timing.hash_ms
            times.append(ms)
            without.append(ms - (hashing if isinstance(hashing, float) else 0.0))
        again, bare = statistics.median(times[1:]), statistics.median(without[1:])
        rows[level.value] = Validation(first_ms=times[0], again_ms=again, again_without_hash_ms=bare)
        print(f"{model_id:12} {level.value:14} first {times[0]:8.1f} ms, then {again:8.1f}, {bare:.1f} without digests")
    return rows


def benchmark_ratio(client: Client) -> float:
    """The benchmark's runs and `generate`'s alternate, so that both see the same machine."""
    shape = ModelBenchmarkConfiguration(input_width=64, input_height=64, inference_steps=20)
    inside, outside = [], []
    for _ in range(RUNS):
        told = client.benchmark(DIGITS, configuration=shape, warmup_runs=1, benchmark_runs=3, track_memory_usage=False)
        inside.append(told.avg_inference_time)
        prompt = told.results.benchmark_configuration["prompt"]
        for _ in range(3):
            ms, _ = timed(partial(client.generate, DIGITS, prompt, seed=1, steps=20, width=64, height=64))
            outside.append(ms)
    return statistics.median(inside) / statistics.median(outside)


def digits_right(client: Client, each: int) -> float:
    right = 0
    for digit in range(10):
        for start in range(0, each, 10):
            count = min(10, each - start)
            answer = client.generate(DIGITS, prompt_of(digit), seed=1000 * digit + start, num_images=count)
            right += sum(read_digit(data)[0] == digit for data in answer.attachments)
    return right / (10 * each)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", choices=["cuda", "cpu"])
    parser.add_argument("--digits", type=int, default=20)
    options = parser.parse_args()
    before = machine()

    def make_models(folder: Path) -> None:
        shutil.copytree(DIGITS_FOLDER, folder / DIGITS)
        command = [sys.executable, "-P", "-m", "bench.residency", "--role", "make", "--folder", str(folder / MODEL)]
        subprocess.run([*command, f"--device={options.device}"], check=True, cwd=ROOT)

    devices, budget = ("cuda:0", {}) if options.device == "cuda" else ("cpu:1", {"vram": "8GiB"})
    with Server(devices, make_models, **budget) as server, Client(server.address) as client:
        name = next(iter(client.devices().devices)).name
        rows = {model_id: validations(client, model_id) for model_id in (DIGITS, MODEL)}
        ratio = benchmark_ratio(client)
        print(f"a benchmark's average is {ratio:.3f} of the same runs timed from outside (within 3 % wanted)")
        right = {}
        for precision in (ModelPrecision.Float32, ModelPrecision.Int8):
            client.load(
                DIGITS, configuration=ModelLoadConfiguration(precision=precision), timeout_seconds=PATIENCE_SECONDS
            )
            share = right[precision.value] = digits_right(client, options.digits)
            print(f"{precision.value}: {share:.1%} of {10 * options.digits} digits are what was asked for")
    result = Result(machine=before, device=name, validations=rows, benchmark_ratio=ratio, digits_right=right)
    print(write("worth", result))


if __name__ == "__main__":
    main()
