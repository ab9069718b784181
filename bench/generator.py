"""How much load one process of the generator makes, beside a bare loop of sends and receives on the same echo.

`python -m bench.generator [--seconds 3] [--in-flight 64]`: an echo in a process of its own, first driven by a loop that
does nothing but send and receive, then by the generator in a closed loop with as much under way, all of its figures
taken. The rates alternate, three times each.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from multiprocessing.connection import Connection

import msgspec
import zmq
from msgspec import Struct

from bench.record import Machine, machine, write
from loadgen.scenario import Kind, Scenario, Stage, checked
from loadgen.sending import Sender

ROUNDS = 3
COMMAND = b'{"action":"list_devices","request_id":"0123456789-0-1234567","priority":"Normal"}'
_spawn = multiprocessing.get_context("spawn")


class Named(Struct):
    request_id: str


class Result(Struct, frozen=True, kw_only=True):
    """Commands a second, medians; `lag_p99_ms` is the generator's own at a tenth of its rate, in an open loop."""

    machine: Machine
    in_flight: int
    bare: float
    generator: float
    ratio: float
    lag_p99_ms: float


def echo(ready: Connection) -> None:
    """Answers every command with a reply of the usual size under its id."""
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.rcvhwm = socket.sndhwm = 0
    socket.bind("tcp://127.0.0.1:*")
    ready.send(socket.getsockopt_string(zmq.LAST_ENDPOINT))
    decode = msgspec.json.Decoder(Named).decode
    rest = b'","action":"list_devices","success":true,"state":"completed","device_id":"cpu:0",'
    rest += b'"timing":{"queue_ms":0.1,"total_ms":0.2}}'
    while True:
        route, payload = socket.recv_multipart()
        socket.send_multipart((route, b'{"request_id":"' + decode(payload).request_id.encode() + rest))


def bare(address: str, seconds: float, in_flight: int) -> float:
    """Sends and receives alone."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(address)
    for _ in range(in_flight):
        socket.send(COMMAND)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        socket.recv()
        socket.send(COMMAND)
        count += 1
    rate = count / (time.perf_counter() - began)
    context.destroy(linger=0)
    return rate


def generated(address: str, stage: Stage) -> tuple[float, float]:
    """Commands a second of the generator, and its own lag's 99th percentile in milliseconds."""
    scenario = checked(
        Scenario(stages=[stage], mix=[Kind(action="list_devices")], clients=1, probe_hz=0.0, patience_seconds=5.0)
    )
    tally = Sender(address, scenario, run="bench").run(time.monotonic() + 0.05)
    lag = tally.histogram("lag")
    assert lag is not None
    return tally.total("completed") / stage.seconds, lag.get_value_at_percentile(99) / 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--in-flight", type=int, default=64)
    chosen = parser.parse_args()
    here, there = _spawn.Pipe()
    process = _spawn.Process(target=echo, args=(there,), daemon=True)
    process.start()
    address = here.recv()
    plain, made = [], []
    for _ in range(ROUNDS):
        plain.append(bare(address, chosen.seconds, chosen.in_flight))
        made.append(generated(address, Stage(seconds=chosen.seconds, concurrency=chosen.in_flight))[0])
    one, other = statistics.median(plain), statistics.median(made)
    _, lag = generated(address, Stage(seconds=chosen.seconds, rate=other / 10))
    process.kill()
    result = Result(
        machine=machine(),
        in_flight=chosen.in_flight,
        bare=one,
        generator=other,
        ratio=other / one,
        lag_p99_ms=lag,
    )
    path = write("generator", result)
    print(f"bare loop {one:,.0f}/s, generator {other:,.0f}/s: {other / one:.2f} of it; {path.name}")
    print(f"its own lag at {other / 10:,.0f}/s: 99th percentile {lag:.3f} ms")


if __name__ == "__main__":
    main()
