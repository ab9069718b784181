"""One set of demonstration models for all tests of this folder, on one core and without a network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import torch

from demo.models import make_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root with every demonstration model."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("models")
    make_models(root)
    return root
