"""The catalogue's file checked and made anew: nothing that can be read is lost, and the old file is kept."""

from __future__ import annotations

import json
import os
import sqlite3
from pathlib import Path

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file
from shelf import Shelf

from catalog.database import FILE_NAME, SCHEMA_VERSION
from catalog.mending import check, opened_store, rebuild
from modelfiles.paths import Roots
from protocol.enums import ModelStatus


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    tensor_file(shelf.root / "one.safetensors", SD15_NAMES)
    pipeline_folder(shelf.root / "sd")
    for name in ("v", "out"):
        json_file(shelf.root / f"{name}.vmodel.json", PROFILE)
    shelf.scan()
    shelf.update("one", {"name": "The One", "rating": 5})
    shelf.use("one", run_ms=5.0)
    shelf.unregister("out")
    shelf.store.close()
    return shelf


def change(shelf: Shelf, statement: str) -> None:
    with sqlite3.connect(shelf.data / FILE_NAME) as db:
        db.execute(statement)
    db.close()


def again(shelf: Shelf) -> Shelf:
    return Shelf(shelf.root, shelf.data)


def test_a_sound_catalogue_is_told_by_its_numbers_and_not_changed(shelf: Shelf) -> None:
    before = (shelf.data / FILE_NAME).read_bytes()
    found = check(shelf.data)
    assert found.is_sound and found.problems == []
    assert (found.version, found.models, found.used, found.unregistered) == (SCHEMA_VERSION, 3, 1, 1)
    assert found.statuses == {"Available": 3}
    assert (shelf.data / FILE_NAME).read_bytes() == before


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        ("UPDATE models SET entry = '{}' WHERE id = 'sd'", "sd: its record"),
        ("INSERT INTO usage SELECT 'ghost', device_id, 1, 1, 1, 1, 1, 1, 1, first_used, last_used FROM usage", "ghost"),
        ("PRAGMA user_version = 99", "version 99"),
        ("DROP TABLE models", "no such table"),
    ],
)
def test_what_is_wrong_is_named(shelf: Shelf, statement: str, word: str) -> None:
    change(shelf, statement)
    found = check(shelf.data)
    assert not found.is_sound
    assert any(word in problem for problem in found.problems), found.problems


def test_garbage_is_a_problem_and_no_file_an_error(shelf: Shelf, tmp_path: Path) -> None:
    (shelf.data / FILE_NAME).write_bytes(os.urandom(8192))
    assert not check(shelf.data).is_sound
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "nowhere")


def test_a_catalogue_made_anew_has_all_that_the_old_one_had(shelf: Shelf) -> None:
    revisions = {model.id: model.revision for model in again(shelf).listed().models}
    made = rebuild(shelf.data, Roots([shelf.root]))
    assert (made.kept, made.added, made.missing, made.rejected) == (3, [], [], [])
    assert Path(made.kept_as).exists()
    after = again(shelf)
    assert set(after.ids()) == set(revisions)
    info = after.info("one", include_performance=True)
    assert info.usage_stats is not None
    assert (info.model.name, info.usage_stats.user_rating, info.usage_stats.total_usage_count) == ("The One", 5, 1)
    assert all(model.status is ModelStatus.Available for model in after.listed().models)
    assert all(model.revision >= revisions[model.id] for model in after.listed().models)
    assert after.scan().added == [] and check(shelf.data).is_sound


def test_it_mends_records_and_finds_what_has_come_and_gone(shelf: Shelf) -> None:
    change(shelf, "UPDATE models SET entry = json_set(entry, '$.file', 7) WHERE id = 'one'")
    change(shelf, "UPDATE models SET entry = 'x' WHERE id = 'sd'")
    (shelf.root / "v.vmodel.json").unlink()
    json_file(shelf.root / "new.vmodel.json", PROFILE)
    json_file(shelf.root / "bad.vmodel.json", {})
    made = rebuild(shelf.data, Roots([shelf.root]))
    assert (made.kept, made.added, made.missing) == (3, ["new"], ["v"])
    assert [Path(item.path).name for item in made.rejected] == ["bad.vmodel.json"]
    after = again(shelf)
    assert after.info("one").model.name == "The One"
    assert after.info("sd").model.status is ModelStatus.Available
    assert after.info("v").model.status is ModelStatus.Missing


def test_of_a_damaged_file_what_can_be_read_comes_along_and_sidecars_bring_the_rest(shelf: Shelf) -> None:
    full = again(shelf)
    for number in range(300):
        json_file(full.root / f"many/m{number:03}.vmodel.json", PROFILE)
    full.scan()
    full.update("m007", {"name": "Seven"})
    full.store.close()
    path = shelf.data / FILE_NAME
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(bytes(4096))
    assert not check(shelf.data).is_sound
    made = rebuild(shelf.data, Roots([shelf.root]))
    assert made.kept + len(made.added) >= 303
    after = again(shelf)
    assert {"one", "sd", "v", *(f"m{number:03}" for number in range(300))} <= set(after.store.entries)
    assert (after.info("m007").model.name, after.info("one").model.name) == ("Seven", "The One")
    assert check(shelf.data).is_sound


def test_a_start_takes_along_what_can_be_read_of_a_file_that_it_sets_aside(shelf: Shelf) -> None:
    change(shelf, "PRAGMA user_version = 99")
    store = opened_store(shelf.data)
    assert set(store.entries) == {"one", "sd", "v"}
    assert store.entries["one"].written.name == "The One"
    assert store.usage(["one"])["one"][0].uses == 1
    assert store.is_left_out(str(shelf.root / "out.vmodel.json"))
    store.close()
    (shelf.data / FILE_NAME).write_bytes(os.urandom(8192))
    store = opened_store(shelf.data)
    assert dict(store.entries) == {}
    store.close()


def test_without_an_old_one_it_is_made_from_the_roots_and_sidecars(shelf: Shelf) -> None:
    (shelf.data / FILE_NAME).unlink()
    made = rebuild(shelf.data, Roots([shelf.root]))
    assert (made.kept, set(made.added), made.kept_as) == (0, {"one", "sd", "v", "out"}, "")
    assert again(shelf).info("one").model.name == "The One"


def test_what_goes_wrong_leaves_the_old_one_in_its_place(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    before = check(shelf.data)

    def broken(*_: object) -> None:
        raise OSError("no")

    monkeypatch.setattr("catalog.mending.Scan", broken)
    with pytest.raises(OSError, match="no"):
        rebuild(shelf.data, Roots([shelf.root]))
    monkeypatch.undo()
    assert [path.name for path in shelf.data.iterdir() if FILE_NAME not in path.name] == []
    after = check(shelf.data)
    assert (after.is_sound, after.models, after.used) == (True, before.models, before.used)
    assert json.loads((shelf.root / "one.safetensors.vrambroker.json").read_text())["model_id"] == "one"
