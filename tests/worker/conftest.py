"""Devices to test with: a cpu device over the demonstration models, a virtual one over tiny profiles."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

from tests.worker.bench import Bench, worker_spec

PROFILE = (
    '{"family": "SD15", "bytes": %d, "load_ms": %g, "step_ms": %g, "peak_bytes": %d,'
    ' "components": {"unet": %d, "vae": %d}}'
)


def write_profile(root: Path, name: str, size: int, load_ms: float = 20, step_ms: float = 2) -> str:
    """A virtual model's profile; its file name."""
    text = PROFILE % (size, load_ms, step_ms, size + 1000, size - 100, 100)
    (root / f"{name}.vmodel.json").write_text(text)
    return f"{name}.vmodel.json"


@pytest.fixture
def cpu(model_root: Path, tmp_path: Path) -> Bench:
    """A cpu device whose budget holds every model."""
    import torch  # noqa: PLC0415 - tests of virtual devices do without

    torch.set_num_threads(1)
    return Bench(model_root, worker_spec(model_root, outputs=str(tmp_path / "outputs")))


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    """A root with virtual models of 1000, 2000 and 5000 bytes, and one that loads slowly."""
    for name, size in (("one", 1000), ("two", 2000), ("five", 5000)):
        write_profile(tmp_path, name, size)
    write_profile(tmp_path, "slow", 1000, load_ms=60_000, step_ms=60_000)
    return tmp_path


class Clock:
    """A clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def virtual(profiles: Path, clock: Clock) -> Bench:
    """A virtual device of 6000 bytes with 3000 bytes of RAM tier, on a clock of its own."""
    spec = worker_spec(profiles, "virtual:0", budget_bytes=6000, ram_budget_bytes=3000)
    return Bench(profiles, spec, clock)
