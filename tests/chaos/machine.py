"""A whole machine of virtual devices to break: `serve` with fixed ports, its children, its log, its lives."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil
import zmq

from tests.chaos.traffic import MODELS

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 60.0


class Machine:
    """Starts, breaks and restarts `vrambroker serve`. Every life of the supervisor has a log of its own."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.folder = folder
        self.devices = devices
        self.lives = 0
        ports = _free_ports(3)
        self.address = f"tcp://127.0.0.1:{ports[0]}"
        models = folder / "models"
        models.mkdir(parents=True)
        for index in range(MODELS):
            (models / f"model-{index}.vmodel.json").write_text(json.dumps(_profile()))
        (folder / "config.toml").write_text("silence_ms = 1500\n")
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("VRAMBROKER_")},
            "VRAMBROKER_CONFIG": str(folder / "config.toml"),
            "VRAMBROKER_RUNTIME": str(folder / "runtime"),
            "VRAMBROKER_MODELS": str(models),
            "VRAMBROKER_DEVICES": f"virtual:{devices}",
            "VRAMBROKER_VRAM": "4GiB",
            "VRAMBROKER_COMMANDS": self.address,
            "VRAMBROKER_EVENTS": f"tcp://127.0.0.1:{ports[1]}",
            "VRAMBROKER_WEB": f"127.0.0.1:{ports[2]}",
        }
        self.seen: set[int] = set()
        self.start()

    def start(self) -> None:
        """One more life."""
        self.lives += 1
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "cli.main", "serve"],
                cwd=ROOT,
                env=self._environment,
                stderr=stream,
                stdout=stream,
            )
        self.wait_ready()

    @property
    def log(self) -> Path:
        return self.folder / f"log-{self.lives}"

    def logs(self) -> list[Path]:
        """The log of each life, in order."""
        return [self.folder / f"log-{life}" for life in range(1, self.lives + 1)]

    def ask(self, command: dict[str, Any], seconds: float = PATIENCE_SECONDS) -> dict[str, Any]:
        """A reply, asked for again where the broker died before it came."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with zmq.Context() as context, context.socket(zmq.DEALER) as asking:
                asking.setsockopt(zmq.LINGER, 0)
                asking.connect(self.address)
                asking.send(msgspec.json.encode(command))
                if asking.poll(1000):
                    reply: dict[str, Any] = msgspec.json.decode(asking.recv_multipart()[0])
                    return reply
        raise AssertionError(f"no reply within {seconds:g} s to {command}")

    def wait_ready(self) -> None:
        """Until every device takes work."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            states = [device["state"] for device in self.ask({"action": "list_devices"})["devices"]]
            if all(state in ("ready", "busy") for state in states):
                return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.05)
        raise AssertionError(f"the devices are {states}\n{self.log.read_text()[-3000:]}")

    # who runs

    def children(self, word: str) -> list[psutil.Process]:
        """The supervisor's children whose command line has a module's name."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if word in child.cmdline():
                    found.append(child)
                    self.seen.add(child.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def note_children(self) -> None:
        """Remember every process of the house, to see at the end that none is left."""
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self.seen.add(child.pid)

    def orphans(self) -> list[str]:
        """Processes of the house that are still there."""
        return [
            " ".join(process.cmdline()[:4])
            for process in psutil.process_iter()
            if process.pid in self.seen and _is_ours(process)
        ]

    # what breaks

    def kill_supervisor(self) -> None:
        """SIGKILL, and a new life once everything that it had started is gone."""
        self.note_children()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        wait_until(lambda: not self.orphans(), "children outlive the supervisor")
        self.start()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.note_children()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_SECONDS)
        wait_until(lambda: not self.orphans(), "children outlive the supervisor")
        return status


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Until it holds; fails with what did not come."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def _is_ours(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and "python" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False


def _profile() -> dict[str, Any]:
    size = 1 << 30
    return {
        "family": "SDXL",
        "bytes": size,
        "load_ms": 60,
        "step_ms": 15,
        "peak_bytes": size + (64 << 20),
        "components": {"unet": size - 1024, "vae": 1024},
    }


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
