"""A broker for the length of a test: one device, a folder and a model of its own, nothing of the operator's touched."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from client.sync import Client
from modelfiles import families
from protocol.enums import DeviceKind, DeviceState
from protocol.replies import DeviceInfo
from settings.private import environment

PATIENCE_SECONDS = 120.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.05
PROFILE = {
    "family": families.ALL[0].type.value,
    "bytes": 1 << 28,
    "load_ms": 100,
    "step_ms": 20,
    "peak_bytes": (1 << 28) + (1 << 26),
    "components": {"unet": 1 << 27, "text_encoder": 1 << 26, "vae": 1 << 26},
}
SETTINGS = {"COMMANDS": "tcp://127.0.0.1:0", "EVENTS": "tcp://127.0.0.1:0", "WEB": "127.0.0.1:0", "ADMIN": "true"}


class PrivateError(Exception):
    """The broker or its model could not be made; the text says why."""


class PrivateBroker:
    """`client` is connected, `device` is the one device. A context: everything it started is gone afterwards."""

    def __init__(self, device: str) -> None:
        self._wanted = device
        self._folder = tempfile.TemporaryDirectory(prefix="vrambroker-selftest-")
        self._process: subprocess.Popen[bytes] | None = None
        self.log = Path(self._folder.name) / "log"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            with suppress(AttributeError):
                self.client.close()
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._folder.cleanup()

    def _start(self) -> None:
        folder = Path(self._folder.name)
        models, runtime = folder / "models", folder / "runtime"
        models.mkdir()
        runtime.mkdir(mode=0o700)
        kind, _, number = self._wanted.partition(":")
        devices = f"cuda:{number or 0}" if kind == DeviceKind.CUDA.value else f"{kind}:1"
        chosen = {"RUNTIME": runtime, "MODELS": models, "DEVICES": devices}
        told = {name: str(value) for name, value in (SETTINGS | chosen).items()}
        with self.log.open("wb") as log:
            command = [sys.executable, "-P", "-m", "cli.main", "serve"]
            self._process = subprocess.Popen(
                command, env=environment(told) | {"HF_HUB_OFFLINE": "1"}, stdout=log, stderr=log
            )
        # Beside the start of the worker, which takes as long.
        self.model = self._make_model(models, kind)
        endpoints = self.wait("endpoints", lambda: json.loads((runtime / "endpoints.json").read_text()))
        self.client = Client(endpoints["commands"])
        self.wait("the device", lambda: self.device.state is DeviceState.READY)
        self.client.scan()

    def _make_model(self, folder: Path, kind: str) -> str:
        if kind == DeviceKind.VIRTUAL.value:
            (folder / "profile.vmodel.json").write_text(json.dumps(PROFILE))
            return "profile"
        command = [sys.executable, "-P", "-m", "demo.models", str(folder), "--smallest", "--no-virtual"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as making:
            while making.poll() is None and self._lives:
                time.sleep(LOOK_SECONDS)
            making.kill()
            said = making.stderr.read() if making.stderr is not None else ""
        if self._lives and making.returncode:
            raise PrivateError(f"no model could be made: {said[-400:]}")
        if not self._lives:
            self.wait("the broker", lambda: False)
        return next(path.name for path in folder.iterdir() if path.is_dir())

    @property
    def _lives(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def device(self) -> DeviceInfo:
        """The device as the broker shows it now."""
        return next(iter(self.client.devices().devices))

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        """The first true value of a condition; what a start brings about counts as not yet. Raises PrivateError."""
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            if not self._lives:
                break
            with suppress(OSError, ValueError, LookupError, StopIteration):
                found = condition()
                if found:
                    return found
            time.sleep(LOOK_SECONDS)
        tail = self.log.read_text(errors="replace")[-600:] if self.log.exists() else ""
        raise PrivateError(f"waited for {what} in vain; the log ends: {tail}")
