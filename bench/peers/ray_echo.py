"""Ray: calls of one actor, over Ray's own gRPC between driver and actor.

In its favour: commands and replies are bytes small enough to travel inside the call, nothing is forwarded to the
driver's log, no dashboard runs. Waiting for the oldest call is as fast as awaiting all of them in asyncio.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import os

from bench.peers import echo

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray

OBJECT_STORE_BYTES = 100_000_000


class Echo:
    """Any command, one reply."""

    def answer(self, command: bytes) -> bytes:
        return echo.REPLY


def main() -> None:
    options = echo.options()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=OBJECT_STORE_BYTES)
    try:
        answer = ray.remote(Echo).remote().answer.remote
        echo.in_order(answer, ray.get, options.in_flight[0], echo.WARM_UP_SECONDS)
        rows = [echo.in_order(answer, ray.get, count, options.seconds) for count in options.in_flight]
    finally:
        ray.shutdown()
    echo.report("ray", rows)


if __name__ == "__main__":
    main()
