"""A soak against a real broker of virtual devices: it passes, and finds what was planted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client import Client
from soak import traffic
from soak.running import Served, Soak, SoakError
from soak.verdict import Verdict
from tests.integration.conftest import profile
from tests.soak.saboteur import Saboteur

MODELS = [("alpha", True), ("beta", True)]
SECONDS, SHORT = 8.0, 3.5


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    models = tmp_path / "models"
    models.mkdir()
    for name, _ in MODELS:
        profile(models, name, load_ms=20, step_ms=1)
    config = tmp_path / "c.toml"
    config.write_text(f'models = ["{models}"]\ndevices = "virtual:2"\nvram = "4GiB"\nsilence_ms = 3000\n')
    served = Served(tmp_path, config)
    try:
        with Client(served.endpoints["commands"]) as client:
            while not all(device.state.value == "ready" for device in client.devices().devices):
                pass
        yield served
    finally:
        served.close()


def soaked(served: Served, endpoint: str | None = None, *, every: float = 1000.0, seconds: float = SECONDS) -> Verdict:
    soak = Soak(served.process.pid, endpoint or served.endpoints["commands"], MODELS, seconds=seconds, seed=1)
    return soak.run(every)


def broken(verdict: Verdict) -> set[str]:
    """The promises that were broken, but for those that a run so short says nothing about."""
    slow = {"no process's memory grows", "no process's descriptors grow", "no process's threads grow"}
    return {check.name for check in verdict.checks if not check.passed} - slow


def test_a_broker_that_keeps_its_promises_passes_with_faults(served: Served) -> None:
    verdict = soaked(served, every=0.5)
    assert broken(verdict) == set(), [check for check in verdict.checks if not check.passed]
    assert sum(verdict.faults.values()) >= 3 and verdict.counts["completed"] > 50
    assert verdict.ended == "completed" and all(one.seconds is not None for one in verdict.recoveries)


@pytest.mark.parametrize(
    ("deed", "promise"),
    [
        ("none", None),
        ("lose", "every command was answered"),
        ("double", "no command ran twice"),
        ("spoil", "equal seeds drew equal bytes"),
    ],
)
def test_what_is_planted_is_found_and_nothing_else(
    served: Served, monkeypatch: pytest.MonkeyPatch, deed: str, promise: str | None
) -> None:
    monkeypatch.setattr(traffic, "CANCEL_SHARE", 0.0)
    monkeypatch.setattr("soak.running.PATIENCE_SECONDS", 6.0)
    with Saboteur(served.endpoints["commands"], deed) as between:
        verdict = soaked(served, between.address, seconds=SHORT)
    assert between.done == (deed != "none")
    assert broken(verdict) == ({promise} if promise else set())


def test_a_broker_that_cannot_start_is_named(tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("modles = []")
    with pytest.raises(SoakError, match="did you mean models"):
        Served(tmp_path, config)
