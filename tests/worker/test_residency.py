"""Random acts of two workers, with failures and kills: no byte is lost or counted twice, every picture is the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worker.residency import SIZES, live, make_models, model_bytes, quick_copies

STEPS = 20
SEED = 5


@pytest.fixture(scope="module")
def root(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("residency")
    make_models(model_root / "tiny-sd15", root)
    return root


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with quick_copies():
        yield


@pytest.mark.parametrize("room", SIZES, ids=str)
def test_what_is_where_stays_true(root: Path, room: tuple[int, int]) -> None:
    assert live(root, model_bytes(root), room, SEED, STEPS).first
