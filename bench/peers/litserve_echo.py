"""LitServe: uvicorn with FastAPI before one worker process.

In its favour: the ZeroMQ queue that it offers for throughput, a ready response (its default encodes one from Python
values), no request timeout to check, no access log, kept-alive connections. One worker, as every rig has, and one API
server. It parses each body as JSON: that cannot be switched off.
"""
# mypy: allow-subclassing-any, disable-error-code="import-not-found"

from __future__ import annotations

import sys

import litserve
from fastapi import Response

from bench.peers import echo, keepalive

ROUTE = "/predict"


class Echo(litserve.LitAPI):
    """Any command, one reply."""

    def setup(self, device: str) -> None:
        """There is no model."""

    def predict(self, command: object) -> Response:
        return Response(content=echo.REPLY, media_type="application/json")


def serve(port: str) -> None:
    server = litserve.LitServer(
        Echo(), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True, timeout=False
    )
    server.run(
        host=keepalive.HOST,
        port=int(port),
        num_api_servers=1,
        log_level="error",
        access_log=False,
        generate_client_file=False,
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        keepalive.measure("litserve", "bench.peers.litserve_echo", ROUTE)
