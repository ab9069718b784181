"""How soon a broker takes commands after `vrambroker serve` is started, and what it holds when idle.

`python -m bench.start [--runs 5]`: from the exec of the supervisor to `endpoints.json`, and to the first pong; then the
broker process's resident memory.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import zmq
from msgspec import Struct

from bench.record import Machine, machine, write


class Start(Struct, frozen=True, kw_only=True):
    """Milliseconds since the exec; bytes of the broker process."""

    endpoints_ms: float
    pong_ms: float
    broker_rss_bytes: int


class Result(Struct, frozen=True, kw_only=True):
    """Every run, and the medians."""

    machine: Machine
    runs: list[Start]
    endpoints_ms: float
    pong_ms: float
    broker_rss_bytes: float


def one_run() -> Start:
    """Start, ping once, stop."""
    with tempfile.TemporaryDirectory() as runtime:
        environment = {**os.environ, "VRAMBROKER_RUNTIME": runtime, "VRAMBROKER_DEVICES": "virtual:1"}
        environment |= {"VRAMBROKER_COMMANDS": "tcp://127.0.0.1:0", "VRAMBROKER_EVENTS": "tcp://127.0.0.1:0"}
        began = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", "serve"], env=environment, stderr=subprocess.DEVNULL
        )
        try:
            return _watch(process, Path(runtime) / "endpoints.json", began)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


def _watch(process: subprocess.Popen[bytes], file: Path, began: float) -> Start:
    while not file.exists():
        if process.poll() is not None:
            raise SystemExit("serve ended before it took commands")
        time.sleep(0.001)
    endpoints_ms = (time.perf_counter() - began) * 1000
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(json.loads(file.read_text())["commands"])
    socket.send(b'{"action":"ping"}')
    socket.recv_multipart()
    pong_ms = (time.perf_counter() - began) * 1000
    time.sleep(1.0)
    broker = next(child for child in psutil.Process(process.pid).children() if "broker" in child.cmdline())
    rss = broker.memory_info().rss
    context.destroy(linger=0)
    return Start(endpoints_ms=endpoints_ms, pong_ms=pong_ms, broker_rss_bytes=rss)


def main() -> None:
    """Print the medians and write `bench/results/start.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    count = parser.parse_args().runs
    before = machine()
    one_run()
    runs = [one_run() for _ in range(count)]
    result = Result(
        machine=before,
        runs=runs,
        endpoints_ms=statistics.median(run.endpoints_ms for run in runs),
        pong_ms=statistics.median(run.pong_ms for run in runs),
        broker_rss_bytes=statistics.median(run.broker_rss_bytes for run in runs),
    )
    print(f"endpoints.json after {result.endpoints_ms:.0f} ms, first pong after {result.pong_ms:.0f} ms")
    print(f"broker idle: {result.broker_rss_bytes / (1 << 20):.1f} MiB resident")
    print(f"load average before: {before.load_average_before:.2f}; written to {write('start', result)}")


if __name__ == "__main__":
    main()
