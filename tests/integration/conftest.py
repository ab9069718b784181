"""A whole broker on free ports, driven from outside: processes, sockets and signals are real."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
import zmq

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60


class Connection:
    """A client's socket that speaks the wire by hand."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self.socket = socket
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_SECONDS * 1000)
        socket.setsockopt(zmq.LINGER, 0)

    def send(self, command: Any, *attachments: bytes, msgpack: bool = False) -> None:
        payload = command if isinstance(command, bytes) else None
        if payload is None:
            payload = msgspec.msgpack.encode(command) if msgpack else json.dumps(command).encode()
        self.socket.send_multipart([payload, *attachments])

    def receive(self) -> tuple[dict[str, Any], list[bytes]]:
        frames = self.socket.recv_multipart()
        payload, *attachments = frames if frames[0] else frames[1:]
        text = payload[:1] == b"{"
        return (json.loads(payload) if text else msgspec.msgpack.decode(payload)), attachments

    def ask(self, command: Any, *attachments: bytes, msgpack: bool = False) -> dict[str, Any]:
        self.send(command, *attachments, msgpack=msgpack)
        return self.receive()[0]


class Broker:
    """A running `serve`; `connect` opens a socket that is closed with it."""

    def __init__(self, process: subprocess.Popen[bytes], runtime: Path, log: Path) -> None:
        self.process = process
        self.runtime = runtime
        self.log = log
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        self.endpoints = self.read_endpoints()
        self._watcher = self.connect()
        self.children = psutil.Process(process.pid).children()

    def read_endpoints(self) -> dict[str, Any]:
        return wait_for(lambda: json.loads((self.runtime / "endpoints.json").read_text()), self)

    def connect(self, kind: int = zmq.DEALER) -> Connection:
        socket = self.context.socket(kind)
        self._sockets.append(socket)
        socket.connect(self.endpoints["commands"])
        return Connection(socket)

    def devices(self) -> dict[str, dict[str, Any]]:
        reply = self._watcher.ask({"action": "list_devices"})
        return {device["device_id"]: device for device in reply["devices"]}

    def wait_ready(self) -> None:
        wait_for(lambda: all(device["state"] == "ready" for device in self.devices().values()), self)

    def stop(self) -> int:
        """SIGTERM; the exit status. Everything that it started is gone afterwards."""
        if self.process.poll() is None:
            everyone = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGTERM)
            status = self.process.wait(PATIENCE_SECONDS)
            _, alive = psutil.wait_procs(everyone, timeout=10)
            assert not alive, f"outlived the supervisor: {alive}"
        else:
            status = self.process.returncode
        for socket in self._sockets:
            socket.close(linger=0)
        self.context.term()
        return status


def wait_for(condition: Callable[[], Any], broker: Broker | None = None) -> Any:
    """The first true value of a condition; errors on the way to it count as not yet."""
    end = time.monotonic() + PATIENCE_SECONDS
    error: Exception | None = None
    while time.monotonic() < end:
        try:
            value = condition()
            if value:
                return value
        except (OSError, ValueError, KeyError) as caught:
            error = caught
        time.sleep(0.05)
    log = broker.log.read_text()[-3000:] if broker is not None else ""
    raise AssertionError(f"waited {PATIENCE_SECONDS} s in vain ({error})\n{log}")


@contextlib.contextmanager
def serving(folder: Path, models: Path, **settings: str) -> Iterator[Broker]:
    """`vrambroker serve` in a runtime folder of its own; settings are VRAMBROKER_ variables."""
    runtime = folder / "runtime"
    runtime.mkdir(parents=True)
    log = folder / "log"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("VRAMBROKER_")}
    environment |= {
        "VRAMBROKER_RUNTIME": str(runtime),
        "VRAMBROKER_MODELS": str(models),
        "VRAMBROKER_COMMANDS": "tcp://127.0.0.1:0",
        "VRAMBROKER_EVENTS": "tcp://127.0.0.1:0",
        "VRAMBROKER_WEB": "off",
        "HF_HUB_OFFLINE": "1",
    }
    environment |= {f"VRAMBROKER_{key.upper()}": value for key, value in settings.items()}
    with log.open("wb") as stream:
        command = [sys.executable, "-P", "-m", "cli.main", "serve"]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=stream, stdout=stream)
    broker: Broker | None = None
    try:
        broker = Broker(process, runtime, log)
        broker.wait_ready()
        yield broker
    finally:
        if broker is not None:
            broker.stop()
        if process.poll() is None:
            process.kill()
            process.wait()


def profile(root: Path, name: str, *, size_bytes: int = 1 << 30, load_ms: float = 50, step_ms: float = 5) -> None:
    """A model for virtual devices."""
    content = {
        "family": "SDXL",
        "bytes": size_bytes,
        "load_ms": load_ms,
        "step_ms": step_ms,
        "peak_bytes": size_bytes + (64 << 20),
        "components": {"unet": size_bytes - 1024, "vae": 1024},
    }
    (root / f"{name}.vmodel.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def virtual(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """Two virtual devices of 4 GiB, with models of 1 GiB."""
    folder = tmp_path_factory.mktemp("virtual")
    models = folder / "models"
    models.mkdir()
    for name in ("alpha", "beta", "gamma"):
        profile(models, name)
    profile(models, "slow", load_ms=1500, step_ms=200)
    profile(models, "huge", size_bytes=8 << 30)
    with serving(folder, models, devices="virtual:2", vram="4GiB", drain="5") as broker:
        yield broker


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, model_root: Path) -> Iterator[Broker]:
    """Two cpu devices with real, tiny diffusers models."""
    with serving(tmp_path_factory.mktemp("real"), model_root, devices="cpu:2", vram="256MiB", ram="256MiB") as broker:
        yield broker
