"""`python -m tests.fuzz --cases 10000000 --seed 1`: the long version of what CI runs."""

from __future__ import annotations

import argparse
import sys

from tests.fuzz.core import fuzz, show
from tests.fuzz.wire import Broker, fuzz_connections, fuzz_frames

ROUND = 100_000


def main() -> int:
    """Rounds of core, frames and connections until the cases are used up; stops at the first that is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    done = 0
    with Broker() as broker:
        before = broker.rss_bytes()
        while done < options.cases:
            size = min(ROUND, options.cases - done)
            seed = options.seed + done
            codes = fuzz(seed, size * 80 // 100)
            fuzz_frames(broker, seed, size * 15 // 100)
            fuzz_connections(broker, seed, size * 5 // 100)
            done += size
            grown = (broker.rss_bytes() - before) / (1 << 20)
            sys.stdout.write(f"{done} cases, seed {seed}, broker grown by {grown:.0f} MiB: {show(codes)}\n")
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
