"""`python -m tests.fuzz --cases 10000000 --seed 1`: the long version of what the suite runs, on every core.

A failure names the function and the seed that show it again, such as `fuzz(600001, 20000)`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path

from demo.inventory import DemoModel
from demo.models import make_models
from tests.fuzz.core import fuzz, fuzz_link, show
from tests.fuzz.models import fuzz_folders, fuzz_values
from tests.fuzz.wire import Broker, fuzz_connections, fuzz_frames, fuzz_strangers

ROUND, PART = 100_000, 10_000
GROWTH_BYTES = 1 << 30
"""What the broker's process may grow by: it keeps finals for ten minutes, whatever they are of."""

FOLDERS_SHARE, VALUES_SHARE = 0.0005, 0.002
MODELS = Path(__file__).parents[2] / "build" / "test-models"
SPOILT = (DemoModel.SD15, DemoModel.SDXL, DemoModel.SD3, DemoModel.FLUX)

LINK_SHARE, FRAMES_SHARE, STRANGERS_SHARE, CONNECTIONS_SHARE = 0.2, 0.1, 0.02, 0.02


def main() -> int:
    """Rounds against the core, and a broker's process beside them, until the cases are used up."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    MODELS.mkdir(parents=True, exist_ok=True)
    make_models(MODELS)
    began, done = time.monotonic(), 0
    codes: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    with Broker() as broker, ProcessPoolExecutor(os.cpu_count(), mp_context=context) as pool:
        before = broker.rss_bytes()
        while done < options.cases:
            size = min(ROUND, options.cases - done)
            codes += _round(broker, pool, options.seed + done, size)
            done += size
            grown = broker.rss_bytes() - before
            assert grown < GROWTH_BYTES, f"the broker grew by {grown} bytes"
            rate = done / (time.monotonic() - began)
            _say(f"{done} cases, {rate:.0f} a second, the broker grew by {grown >> 20} MiB")
    _say(f"all is well after {done} cases from seed {options.seed}: {show(codes)}")
    return 0


def _round(broker: Broker, pool: ProcessPoolExecutor, seed: int, size: int) -> Counter[str]:
    """One round; what the core and the process answered, by code."""
    link, frames, strangers, connections = (
        int(size * share) for share in (LINK_SHARE, FRAMES_SHARE, STRANGERS_SHARE, CONNECTIONS_SHARE)
    )
    folders, values = int(size * FOLDERS_SHARE), int(size * VALUES_SHARE)
    clients = size - link - frames - strangers - connections - folders - values
    model = MODELS / SPOILT[seed // ROUND % len(SPOILT)]
    models = [pool.submit(fuzz_folders, model, seed, folders), pool.submit(fuzz_values, model, seed, values)]
    pieces: list[Future[Counter[str]]] = [pool.submit(fuzz, *piece) for piece in _pieces(seed, clients)]
    others = [pool.submit(fuzz_link, *piece) for piece in _pieces(seed, link)]
    codes = fuzz_frames(broker, seed, frames)
    fuzz_strangers(broker, seed, strangers)
    fuzz_connections(broker, seed, connections)
    for other in others:
        other.result()
    return sum((piece.result() for piece in [*pieces, *models]), codes)


def _pieces(seed: int, count: int) -> Iterator[tuple[int, int]]:
    """Seeds and counts of parts that run beside each other."""
    for start in range(0, count, PART):
        yield seed + start, min(PART, count - start)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
