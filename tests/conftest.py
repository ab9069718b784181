"""What every test may use: the demo models, made once for this checkout."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

_MODELS = Path(__file__).parents[1] / "build" / "test-models"


@pytest.fixture(scope="session")
def model_root() -> Path:
    """A folder with every demo model. Read only: copy what a test changes."""
    from demo.models import make_models  # noqa: PLC0415 - only tests that need models pay for torch

    _MODELS.mkdir(parents=True, exist_ok=True)
    with (_MODELS.parent / "test-models.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        make_models(_MODELS)
    return _MODELS
