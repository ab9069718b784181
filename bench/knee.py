"""Where a broker with eight devices stops keeping up: latency against the offered rate, by the load generator.

`python -m bench.knee [--seconds 12]`: eight virtual devices of 24 GiB, twelve models of 7 GiB by Zipf's law, pictures
of 20 steps of 10 ms: 40 pictures a second is what the devices can do. The page with the plots lies beside the figures.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.record import FOLDER, Machine, machine, write
from bench.rigs import Server
from loadgen.pages import page
from loadgen.report import Report
from loadgen.running import run
from loadgen.scenario import Kind, Scenario, Stage, checked

DEVICES, MODELS, STEPS, STEP_MS = 8, 12, 20, 10
RATES = (8, 16, 24, 32, 36, 40, 48)
GIB = 1 << 30
PROFILE = {"family": "SDXL", "load_ms": 900, "step_ms": STEP_MS, "peak_bytes": 9 * GIB}
CONFIGURATION = 'vram = "24GiB"\nram = "64GiB"\n'


class Result(Struct, frozen=True, kw_only=True):
    """Each stage's offered and completed rate and its percentiles; `knee` is the knee's offered rate."""

    machine: Machine
    capacity: float
    stages: list[dict[str, float]]
    knee: float | None
    ping_p99_ms: float


def make_profiles(root: Path) -> None:
    """The models, in the order of their popularity."""
    for number in range(MODELS):
        profile = {**PROFILE, "bytes": 7 * GIB, "components": {"unet": 7 * GIB}}
        (root / f"m{number}.vmodel.json").write_text(json.dumps(profile))


def measure(seconds: float) -> Report:
    """The sweep."""
    scenario = checked(
        Scenario(
            stages=[Stage(seconds=seconds, rate=float(rate)) for rate in RATES],
            mix=[Kind(action="generate", fields={"prompt": "a boat", "steps": STEPS})],
            models=[f"m{number}" for number in range(MODELS)],
            warm_up_seconds=20.0,
        )
    )
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(CONFIGURATION)
        file.flush()
        with Server(f"virtual:{DEVICES}", make_profiles, config=file.name) as server:
            events = msgspec.json.decode((server.runtime / "endpoints.json").read_bytes())["events"]
            return run(server.address, scenario, events=events, broker={"devices": DEVICES})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=12.0)
    found = measure(parser.parse_args().seconds)
    stages = [
        {
            "offered": stage.offered_rate,
            "completed": stage.achieved_rate,
            "p50_ms": stage.latency.percentiles["p50"] if stage.latency is not None else 0.0,
            "p99_ms": stage.latency.percentiles["p99"] if stage.latency is not None else 0.0,
        }
        for stage in found.stages
    ]
    result = Result(
        machine=machine(),
        capacity=DEVICES * 1000 / (STEPS * STEP_MS),
        stages=stages,
        knee=None if found.knee is None else found.stages[found.knee].offered_rate,
        ping_p99_ms=found.probe.percentiles["p99"] if found.probe is not None else 0.0,
    )
    write("knee", result)
    (FOLDER / "knee.html").write_text(page(found), encoding="utf-8")
    for one in stages:
        print("  ".join(f"{name} {value:8.1f}" for name, value in one.items()))
    print(f"knee at {result.knee} of {result.capacity:g} a second; ping beside it p99 {result.ping_p99_ms:.1f} ms")


if __name__ == "__main__":
    main()
