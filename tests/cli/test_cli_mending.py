"""`vrambroker catalog` on a data folder of this machine, without a broker."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catalog.database import FILE_NAME

PROFILE = {"family": "SDXL", "bytes": 100, "load_ms": 1, "step_ms": 1, "peak_bytes": 120, "components": {"unet": 100}}
Catalog = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/v.vmodel.json").write_text(json.dumps(PROFILE))

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "VRAMBROKER_RUNTIME": str(tmp_path / "run"),
            "VRAMBROKER_DATA": str(tmp_path / "data"),
            "VRAMBROKER_MODELS": str(tmp_path / "models"),
            "COLUMNS": "120",
        }
        command = [sys.executable, "-P", "-m", "cli", "catalog", *words]
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_a_catalogue_is_made_checked_spoilt_and_made_anew(catalog: Catalog, tmp_path: Path) -> None:
    done = catalog("check")
    assert (done.returncode, "there is no catalogue" in done.stderr) == (1, True)
    done = catalog("rebuild")
    assert done.returncode == 0, done.stderr
    assert "rebuilt 1 models" in done.stdout and "there was none" in done.stdout
    done = catalog("check", "--json")
    assert (done.returncode, json.loads(done.stdout)["models"]) == (0, 1)
    with sqlite3.connect(tmp_path / "data" / FILE_NAME) as db:
        db.execute("UPDATE models SET entry = '{}'")
    db.close()
    done = catalog("check")
    assert done.returncode == 1
    assert "not sound" in done.stdout and "v: its record" in done.stdout
    done = catalog("rebuild", "--json")
    assert (done.returncode, json.loads(done.stdout)["kept"]) == (0, 1)
    done = catalog("check")
    assert (done.returncode, "1 Available" in done.stdout, "set aside" in done.stdout) == (0, True, True)


def test_it_is_not_made_anew_beside_a_broker(catalog: Catalog, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    held = os.open(tmp_path / "run", os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(held, fcntl.LOCK_EX)
    done = catalog("rebuild")
    assert (done.returncode, "in use by another broker" in done.stderr) == (1, True)
    os.close(held)
    assert catalog("rebuild").returncode == 0
