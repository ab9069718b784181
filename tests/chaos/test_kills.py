"""The short form of the kills: a few workers die in the middle of their work, and nothing is lost."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.kills import make_profiles, run


def test_workers_killed_in_their_work_lose_nothing(model_root: Path, tmp_path: Path) -> None:
    found = run(model_root, tmp_path, 2, 4)
    assert found.answers.total() >= 2 and found.sources["ram"]


def test_virtual_workers_lose_nothing_either(tmp_path: Path) -> None:
    make_profiles(tmp_path / "models")
    found = run(tmp_path / "models", tmp_path, 4, 4, "virtual")
    assert found.answers.total() >= 4
