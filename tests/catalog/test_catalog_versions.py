"""A catalogue's file that another version wrote: brought to this one, whole, or left as it was."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest
from model_bytes import PROFILE, json_file
from shelf import Shelf

from catalog import database
from catalog.database import FILE_NAME, MIGRATIONS, SCHEMA_VERSION
from protocol import commands as c
from protocol.enums import ModelStatus


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    json_file(shelf.root / "v.vmodel.json", PROFILE)
    shelf.scan()
    shelf.catalogue.answer(c.UpdateMetadata(model_id="v", metadata={"name": "Vera", "rating": 4}), "r")
    shelf.use("v", run_ms=5.0)
    return shelf


def of_version(folder: Path, version: int) -> sqlite3.Connection:
    """The catalogue in a folder as a program of that version would have left it."""
    path = folder / FILE_NAME
    with sqlite3.connect(path) as db:
        rows = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in ("models", "usage")}
    db.close()
    path.unlink()
    old = sqlite3.connect(path, isolation_level=None)
    for step in MIGRATIONS[:version]:
        old.executescript(step)
    for table, found in rows.items():
        for row in found:
            old.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
    old.execute(f"PRAGMA user_version = {version}")
    return old


def version(folder: Path) -> int:
    db = sqlite3.connect(folder / FILE_NAME)
    (found,) = db.execute("PRAGMA user_version").fetchone()
    db.close()
    return int(found)


@pytest.mark.parametrize("old", range(1, SCHEMA_VERSION))
def test_a_file_of_an_older_version_keeps_all_that_it_has(shelf: Shelf, old: int) -> None:
    before = shelf.info("v", include_performance=True)
    shelf.store.close()
    of_version(shelf.data, old).close()
    again = Shelf(shelf.root, shelf.data)
    assert version(shelf.data) == SCHEMA_VERSION
    after = again.info("v", include_performance=True)
    assert after.model == before.model
    assert before.usage_stats is not None and after.usage_stats is not None
    for figure in ("total_usage_count", "average_inference_time", "last_used", "user_rating"):
        assert getattr(after.usage_stats, figure) == getattr(before.usage_stats, figure)
    assert again.scan().updated == []
    assert again.unregister("v").left_out


def test_a_step_that_fails_leaves_the_file_of_the_older_version(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf.store.close()
    of_version(shelf.data, 1).close()
    broken = (*MIGRATIONS, "CREATE TABLE more (id TEXT); INSERT INTO nowhere VALUES (1);")
    monkeypatch.setattr(database, "MIGRATIONS", broken)
    monkeypatch.setattr(database, "SCHEMA_VERSION", len(broken))
    with pytest.raises(sqlite3.OperationalError):
        database._prepared(str(shelf.data / FILE_NAME))
    assert version(shelf.data) == 1
    db = sqlite3.connect(shelf.data / FILE_NAME)
    assert db.execute("SELECT name FROM sqlite_master WHERE name IN ('more', 'forgotten')").fetchall() == []
    db.close()


@pytest.mark.parametrize(
    "change",
    [
        {"file": {"path": "/elsewhere", "shape": "of another time"}},
        {"file": None},
        {"notes": 7},
        {"status": "Sleeping"},
        {"updated_at": "some day"},
    ],
    ids=lambda change: next(iter(change)) if isinstance(change, dict) else "",
)
def test_a_record_of_another_version_keeps_id_revision_and_what_clients_wrote(
    shelf: Shelf, change: dict[str, object]
) -> None:
    before = shelf.info("v").model
    shelf.store.close()
    with sqlite3.connect(shelf.data / FILE_NAME) as db:
        (text,) = db.execute("SELECT entry FROM models").fetchone()
        db.execute("UPDATE models SET entry = ?", (json.dumps(json.loads(text) | change),))
    db.close()
    again = Shelf(shelf.root, shelf.data)
    assert again.info("v").model.status is ModelStatus.Error
    assert again.scan().updated == ["v"]
    after = again.info("v", include_performance=True)
    assert (after.model.name, after.model.status) == ("Vera", ModelStatus.Available)
    assert after.model.revision == before.revision + 1
    assert after.usage_stats is not None and after.usage_stats.user_rating == 4


def test_fields_that_a_later_program_added_to_a_record_do_no_harm(shelf: Shelf) -> None:
    shelf.store.close()
    with sqlite3.connect(shelf.data / FILE_NAME) as db:
        (text,) = db.execute("SELECT entry FROM models").fetchone()
        db.execute("UPDATE models SET entry = ?", (json.dumps(json.loads(text) | {"mood": "good"}),))
    db.close()
    again = Shelf(shelf.root, shelf.data)
    assert again.info("v").model.status is ModelStatus.Available
    assert again.scan().updated == []
