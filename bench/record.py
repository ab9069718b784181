"""Where figures go: one JSON file for each benchmark, replaced by each run."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

FOLDER = Path(__file__).parent / "results"


class Machine(Struct, frozen=True, kw_only=True):
    """What the figures were taken on; a high load makes all but ratios meaningless."""

    python: str
    system: str
    cores: int
    load_average_before: float
    taken_at: datetime


def machine() -> Machine:
    """This machine, now."""
    return Machine(
        python=platform.python_version(),
        system=platform.system(),
        cores=os.cpu_count() or 0,
        load_average_before=os.getloadavg()[0],
        taken_at=datetime.now(UTC),
    )


def write(name: str, result: Struct) -> Path:
    """The result as `bench/results/<name>.json`."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result)) + b"\n")
    return path
