"""A short storm in CI; the long one is `make chaos`."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.chaos import Faults, run


def test_nothing_is_lost_or_doubled_however_processes_die(tmp_path: Path) -> None:
    verdict = run(tmp_path, Faults(kills=16, stops=5, brokers=5, supervisors=1), devices=3, seed=7)
    assert verdict.good, verdict
    assert verdict.outcomes["completed"] > 50 and verdict.executions > 50
