"""mosec: its own Rust HTTP front before one Python worker process.

In its favour: its worker takes and gives bytes (its default decodes and encodes JSON), connections are kept alive,
logging is at its least. `--batched` measures its dynamic batching, up to 64 commands in one call of the worker, in a
row of its own: the other rigs hand their worker each command by itself, as a device that generates must have it.
"""
# mypy: allow-subclassing-any, disable-error-code="import-not-found"

from __future__ import annotations

import os
import sys

from mosec import Server, Worker

from bench.peers import echo, keepalive

ROUTE = "/inference"
BATCHED = "/batched"
MODULE = "bench.peers.mosec_echo"


class Echo(Worker):
    """Any command, one reply."""

    resp_mime_type = "application/json"

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: bytes) -> bytes:
        return echo.REPLY


class BatchedEcho(Echo):
    """As many replies as there are commands in the batch."""

    def forward(self, data: list[bytes]) -> list[bytes]:  # type: ignore[override]
        return [echo.REPLY] * len(data)


def serve(port: str, route: str) -> None:
    """One route with one worker; the shortest wait that mosec has for a batch is 1 ms."""
    # mosec takes its options from the command line, which is ours, or from the environment.
    os.environ.update(MOSEC_ADDRESS=keepalive.HOST, MOSEC_PORT=port, MOSEC_LOG_LEVEL="error")
    server = Server()
    if route == BATCHED:
        server.append_worker(BatchedEcho, num=1, max_batch_size=64, max_wait_time=1, route=route)
    else:
        server.append_worker(Echo, num=1, route=route)
    server.run()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(*sys.argv[2:4])
    elif "--batched" in sys.argv:
        sys.argv.remove("--batched")
        keepalive.measure("mosec", MODULE, BATCHED)
    else:
        keepalive.measure("mosec", MODULE, ROUTE)
