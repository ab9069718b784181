"""`python -m tests.simulation --hours 1000 --seed 1`: simulated hours on every core; a failure names its seed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor

from tests.simulation.runs import run_or_storm

HOURS_EACH = 0.25
BATCH = 64


def main() -> int:
    """Seeds until the hours are simulated, or a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=10_000.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    began, seed, events = time.monotonic(), options.seed, 0
    with ProcessPoolExecutor(os.cpu_count(), mp_context=multiprocessing.get_context("spawn")) as pool:
        while (seed - options.seed) * HOURS_EACH < options.hours:
            results = list(pool.map(run_or_storm, range(seed, seed + BATCH), chunksize=4))
            broken = [result for result in results if result.broken]
            for result in broken:
                sys.stdout.write(f"seed {result.seed}: {result.broken}\n")
            if broken:
                return 1
            seed, events = seed + BATCH, events + sum(result.events for result in results)
            hours = (seed - options.seed) * HOURS_EACH
            sys.stdout.write(f"{hours:.0f} h, {events} events, {time.monotonic() - began:.0f} s: nothing broken\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
