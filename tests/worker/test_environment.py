"""What a worker's process is told before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.worker.bench import worker_spec
from worker import environment


@pytest.mark.parametrize(("threads", "expected"), [(0, "7"), (3, "3")])
def test_a_worker_computes_with_its_share_of_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int, expected: str
) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_NUM_THREADS": "7"})
    environment.pin(worker_spec(tmp_path, threads=threads))
    assert os.environ["OMP_NUM_THREADS"] == expected


def test_a_worker_sees_its_own_device_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": "0,1"})
    environment.pin(worker_spec(tmp_path, cuda_uuid="GPU-1"))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-1" and os.environ["HF_HUB_OFFLINE"] == "1"
