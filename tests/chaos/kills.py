"""Workers killed in every phase of a load, a picture, an unload, and of the reading of the model that comes next.

`python -m tests.chaos.kills [--kind cpu] [--kills 50] [--seed 1]`: a whole `vrambroker serve` with two devices. Each
round sends a command to a device, often with a load of another model behind it, and kills the worker after random time
within what the command takes. Every command is answered once; the model draws the same picture afterwards; at the end
everything is cleared, the devices are empty, the RAM tier is within its budget, and the supervisor has no more memory,
channels and blocks than before. Kinds: `cpu` with real models and one tier, `virtual` with profiles.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from tests.integration.conftest import Broker, profile, serving, wait_for

MODELS = {
    "cpu": ("tiny-sd15", "tiny-sdxl", "tiny-sd15-single"),
    "virtual": ("first", "second", "third"),
}
LOAD_MS, STEP_MS, MODEL_BYTES = 150.0, 10.0, 64 << 20
"""Of a virtual model."""

BEHIND = 0.5
"""The share of rounds with a load of another model behind the command."""

ACTS = ("load_model", "load_model", "force", "generate", "unload_model", "clear")
BUDGET_BYTES = 256 << 20
GROWTH_BYTES = 64 << 20
"""What the supervisor may have more in the end: its heap has been used once."""

COPY_SECONDS = 3.0
"""What copies between commands take here, generously."""

LIKELY = ("WORKER_LOST", "DEVICE_UNAVAILABLE", "POISONED")
"""Of the errors that a killed worker's command may be answered with: commands that cannot be run again."""


class Kills:
    """One serve, and what its commands were answered with."""

    def __init__(self, broker: Broker, kind: str, seed: int) -> None:
        self.broker = broker
        self.models = MODELS[kind]
        self.names = (f"{kind}:0", f"{kind}:1")
        self.chance = random.Random(seed)
        self.client = broker.connect()
        self.answers: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.first: dict[str, list[bytes]] = {}
        self.longest = 0.3
        self._count = 0

    @property
    def _last_id(self) -> str:
        return f"k-{self._count}"

    def _new_id(self) -> str:
        self._count += 1
        return self._last_id

    def begin(self) -> None:
        """Every model draws once on every device, undisturbed."""
        for name in self.models:
            for device in self.names:
                self._check_picture(name, device)

    def round(self) -> None:
        """One command, one kill, and the same picture afterwards."""
        name, device, act = self.chance.choice(self.models), self.chance.choice(self.names), self.chance.choice(ACTS)
        before = self.broker.devices()[device]
        began = time.monotonic()
        self.client.send({**self._command(act, name, device), "request_id": self._new_id()})
        acts = {self._last_id: act}
        if self.chance.random() < BEHIND:
            other = self.chance.choice([one for one in self.models if one != name])
            self.client.send({**self._command("load_model", other, device), "request_id": self._new_id()})
            acts[self._last_id] = "load behind it"
        time.sleep(self.chance.uniform(0.0, self.longest))
        with contextlib.suppress(ProcessLookupError):
            os.kill(before["pid"], signal.SIGKILL)
        while acts:
            reply, _ = self.client.receive()
            error = (reply.get("error") or {}).get("code")
            assert reply["success"] or error in LIKELY, reply
            self.answers[f"{acts.pop(reply['request_id'])}: {error or 'done'}"] += 1
        wait_for(lambda: self.broker.devices()[device]["generation"] > before["generation"], self.broker)
        wait_for(lambda: self.broker.devices()[device]["state"] == "ready", self.broker)
        self.longest = min(1.0, max(0.1, 0.9 * self.longest + 0.1 * (time.monotonic() - began)))
        self._check_picture(name, device)

    def _command(self, act: str, name: str, device: str) -> dict[str, Any]:
        fields = {"model_id": name, "device_id": device}
        match act:
            case "force":
                return {"action": "load_model", "force": True, **fields}
            case "clear":
                return {"action": "unload_model", "clear_cache": True, **fields}
            case "generate":
                return {"action": "generate", "prompt": "a boat", "seed": 3, "steps": 20, **fields}
            case _:
                return {"action": act, **fields}

    def _check_picture(self, name: str, device: str) -> None:
        loaded = self.client.ask({"action": "load_model", "model_id": name, "device_id": device})
        assert loaded["success"], loaded
        self.sources[loaded["cache"]["source"]] += 1
        shape = {"prompt": "a house", "seed": 5, "steps": 2, "width": 64, "height": 64}
        self.client.send({"action": "generate", "model_id": name, "device_id": device, **shape})
        reply, pictures = self.client.receive()
        assert reply["success"], reply
        assert self.first.setdefault(name, pictures) == pictures, f"another picture of {name} on {device}"

    def clear(self) -> None:
        """Everything is cleared: no device holds a byte."""
        for device, found in self.broker.devices().items():
            for model in found["models"]:
                command = {"action": "unload_model", "model_id": model["model_id"], "device_id": device}
                assert self.client.ask({**command, "clear_cache": True})["success"]
            assert self.broker.devices()[device]["used_vram"] == 0

    def tier_bytes(self) -> int:
        """Of the memory files that the supervisor keeps."""
        found = 0
        for link in self._descriptors():
            with contextlib.suppress(OSError):
                if str(link.readlink()).startswith("/memfd:"):
                    found += link.stat().st_blocks * 512
        return found

    def sockets(self) -> int:
        """That the supervisor has open: a channel to the tier for each worker among them."""
        return sum(str(link.readlink()).startswith("socket:") for link in self._descriptors())

    def blocks(self) -> int:
        """Of the tier."""
        return sum(str(link.readlink()).startswith("/memfd:") for link in self._descriptors())

    def _descriptors(self) -> list[Path]:
        return list(Path(f"/proc/{self.broker.process.pid}/fd").iterdir())

    def resident_bytes(self) -> int:
        """Of the supervisor alone, who lives through it all: its memory and nobody else's."""
        return int(psutil.Process(self.broker.process.pid).memory_info().rss)


def make_profiles(models: Path) -> None:
    """The models of virtual devices."""
    models.mkdir()
    for name in MODELS["virtual"]:
        profile(models, name, size_bytes=MODEL_BYTES, load_ms=LOAD_MS, step_ms=STEP_MS)


def run(models: Path, folder: Path, kills: int, seed: int, kind: str = "cpu") -> Kills:
    """So many rounds. Raises AssertionError."""
    restarts = "[restarts]\nfailures = 1000\n"
    config = folder / "vrambroker.toml"
    config.write_text(restarts)
    budget = str(BUDGET_BYTES)
    with serving(folder, models, devices=f"{kind}:2", vram=budget, ram=budget, config=str(config)) as broker:
        found = Kills(broker, kind, seed)
        found.begin()
        found.clear()
        before, sockets = found.resident_bytes(), found.sockets()
        found.begin()
        time.sleep(COPY_SECONDS)
        blocks = found.blocks()
        for _ in range(kills):
            found.round()
        found.clear()
        assert found.tier_bytes() <= BUDGET_BYTES
        assert found.resident_bytes() - before < GROWTH_BYTES, "the supervisor grew"
        assert found.sockets() == sockets, "channels stay open"
        assert found.blocks() <= blocks, "what nobody can find stays"
    return found


def main() -> None:
    from demo.models import make_models  # noqa: PLC0415

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=tuple(MODELS), default="cpu")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vrambroker-kills-") as name:
        models = Path(name) / "models"
        (make_models if options.kind == "cpu" else make_profiles)(models)
        found = run(models, Path(name), options.kills, options.seed, options.kind)
    for answer, count in sorted(found.answers.items()):
        sys.stdout.write(f"{count:4} {answer}\n")
    sys.stdout.write(f"loads afterwards came from {dict(found.sources)}\n")
    sys.stdout.write(f"passed: {options.kills} kills, every picture equal to its first\n")


if __name__ == "__main__":
    main()
