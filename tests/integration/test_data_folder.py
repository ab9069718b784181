"""Any file of the data folder, damaged in any way while nothing runs: the service starts."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest

from tests.integration.conftest import wait_for
from tests.integration.test_machine import DRAW, service


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service's folder after some work: journal, estimates and catalogue are there."""
    folder = tmp_path_factory.mktemp("used")
    with service(folder) as one:
        client = one.ready()
        for number in range(5):
            assert client.ask({**DRAW, "request_id": f"g{number}"})["state"] == "completed"
        one.process.send_signal(signal.SIGTERM)
        assert one.process.wait(20) == 0
    return folder


def half(path: Path, _: random.Random) -> None:
    os.truncate(path, path.stat().st_size // 2)


def nothing(path: Path, _: random.Random) -> None:
    path.write_bytes(b"")


def overwritten(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(path.stat().st_size))


def flipped(path: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)


def a_folder(path: Path, _: random.Random) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [half, nothing, overwritten, flipped, a_folder], ids=lambda damage: damage.__name__)
def test_the_service_starts_whatever_became_of_its_files(used: Path, tmp_path: Path, damage: object) -> None:
    chance = random.Random(7)
    folder = tmp_path / "service"
    shutil.copytree(used, folder, ignore=shutil.ignore_patterns("*.sock"))
    data = folder / "runtime" / "data"
    files = sorted(path for path in data.rglob("*") if path.is_file())
    assert {path.suffix or path.name for path in files} >= {".journal", "estimates", ".sqlite3"}
    for path in files:
        damage(path, chance)  # type: ignore[operator]
    with service(folder, models=str(used / "models")) as one:
        client = one.ready()
        wait_for(lambda: [m["id"] for m in client.ask({"action": "list_models"})["models"]] == ["m"])
        assert client.ask({**DRAW, "request_id": "new"})["state"] == "completed"
        again = client.ask({**DRAW, "request_id": "g0"})
        assert again["success"] or again["error"]["code"] in ("INTERNAL_ERROR", "DUPLICATE_REQUEST")
