"""What clients write of a model: each field on both sides of its rule, revisions, the disk, and what a crash leaves."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from model_bytes import SD15_NAMES, pipeline_folder, tensor_file
from shelf import Shelf, dies_at

from catalog import sidecar, written
from catalog.database import FILE_NAME
from catalog.written import NotWritten
from protocol import commands as c
from protocol import replies as r
from protocol.enums import ModelSortBy, SortDirection
from protocol.errors import ErrorCode, Fault

SPEC = {"modelspec.title": "Stated", "modelspec.author": "Zoë", "modelspec.tags": "night, sky"}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "models"
    pipeline_folder(root / "sd")
    tensor_file(root / "one.safetensors", SD15_NAMES, SPEC)
    made = Shelf(root, tmp_path / "data")
    made.scan()
    return made


def update(shelf: Shelf, metadata: dict[str, Any] | None = None, model_id: str = "one", **fields: Any) -> Any:
    command = c.UpdateMetadata(model_id=model_id, metadata=metadata or {}, **fields)
    reply = shelf.catalogue.answer(command, "r")
    assert isinstance(reply, r.UpdateMetadataReply)
    return reply


def refused(shelf: Shelf, metadata: dict[str, Any], **fields: Any) -> Fault:
    before = shelf.info("one").model
    with pytest.raises(Fault) as caught:
        update(shelf, metadata, **fields)
    assert shelf.info("one").model == before
    return caught.value


LINE, TEXT = "x" * written.LONGEST_LINE, "x" * written.LONGEST_TEXT
TAGS = [f"t{index}" for index in range(written.MOST_TAGS)]
MOMENT = datetime(2024, 3, 1, 12, 30, tzinfo=UTC)
CONFIGURATION = {"schedulers": [], "family": "", "a": None}
WELL: list[tuple[str, Any, Callable[[Any], Any], Any]] = [
    ("name", LINE, lambda m: m.name, LINE),
    ("Version", "1.2", lambda m: m.version, "1.2"),
    ("author", "", lambda m: m.metadata.author, ""),
    ("LICENSE", LINE, lambda m: m.metadata.license, LINE),
    ("description", TEXT, lambda m: m.description, TEXT),
    ("tags", [" a ", "b", "a"], lambda m: m.metadata.tags, ["a", "b"]),
    ("Tags", TAGS, lambda m: m.metadata.tags, TAGS),
    ("tags", [], lambda m: m.metadata.tags, []),
    ("sourceUrl", "https://a.example/m?x=1", lambda m: m.metadata.source_url, "https://a.example/m?x=1"),
    ("source_url", "http://h", lambda m: m.metadata.source_url, "http://h"),
    ("CreatedDate", "2024-03-01T12:30:00.0000009Z", lambda m: m.metadata.created_date, MOMENT),
    ("created_date", "2024-03-01T13:30:00+01:00", lambda m: m.metadata.created_date, MOMENT),
    ("createdDate", MOMENT, lambda m: m.metadata.created_date, MOMENT),
    ("trainingParameters", {"lr": 1e-4, "n": [1]}, lambda m: m.metadata.training_parameters, {"lr": 1e-4, "n": [1]}),
    ("configuration", {"schedulers": [], "family": "", "a": None}, lambda m: m.metadata.configuration, CONFIGURATION),
    ("custom", {"k": {"deep": [True]}}, lambda m: m.metadata.custom, {"k": {"deep": [True]}}),
]


@pytest.mark.parametrize(("key", "value", "read", "shown"), WELL)
def test_a_field_up_to_its_limit_is_written_shown_and_there_after_a_restart(
    shelf: Shelf, key: str, value: Any, read: Callable[[Any], Any], shown: Any
) -> None:
    reply = update(shelf, {key: value})
    assert [name.replace("_", "") for name in reply.updated_fields] == [key.replace("_", "").lower()]
    assert read(reply.updated_model) == shown
    assert read(shelf.info("one").model) == shown
    assert read(shelf.reopen().info("one").model) == shown


@pytest.mark.parametrize(("value", "shown"), [(0, 0.0), (5, 5.0), (2.5, 2.5)])
def test_a_rating_is_the_users_and_orders_lists(shelf: Shelf, value: float, shown: float) -> None:
    assert update(shelf, {"Rating": value}).updated_fields == ["rating"]
    assert shelf.info("one", include_performance=True).usage_stats.user_rating == shown  # type: ignore[union-attr]
    assert shelf.info("sd", include_performance=True).usage_stats.user_rating is None  # type: ignore[union-attr]
    order = {"sort_by": ModelSortBy.Rating, "sort_direction": SortDirection.Descending}
    assert shelf.ids(**order) == ["one", "sd"]


BAD: list[tuple[str, Any, str]] = [
    ("name", "", "0 characters"),
    ("name", "  ", "expected 1 to"),
    ("name", LINE + "x", f"{len(LINE) + 1} characters"),
    ("name", 7, "expected text"),
    ("description", TEXT + "x", f"expected 0 to {len(TEXT)}"),
    ("version", ["1"], "expected text"),
    ("tags", "a", "expected a list of text"),
    ("tags", [1], "expected a list of text"),
    ("tags", [*TAGS, "more"], f"{len(TAGS) + 1} tags"),
    ("tags", ["x" * (written.LONGEST_TAG + 1)], "a tag of"),
    ("tags", [" "], "a tag of 0"),
    ("rating", 5.01, "from 0 to 5"),
    ("rating", -0.1, "from 0 to 5"),
    ("rating", True, "expected a number"),
    ("rating", "5", "expected a number"),
    ("source_url", "ftp://a", "http or https"),
    ("source_url", "https://", "http or https"),
    ("source_url", "javascript:alert(1)", "http or https"),
    ("source_url", "https://a b", "http or https"),
    ("source_url", "https://[", "http or https"),
    ("created_date", "yesterday", "ISO 8601"),
    ("created_date", 5, "ISO 8601"),
    ("created_date", "0001-01-01T00:00:00+14:00", "UTC"),
    ("training_parameters", [], "expected an object"),
    ("configuration", "x", "expected an object"),
    ("custom", None, "expected an object"),
    ("custom", {"": 1}, "a key of 0"),
    ("custom", {"k" * (written.LONGEST_KEY + 1): 1}, "a key of"),
    ("nmae", "x", "no field"),
]


@pytest.mark.parametrize(("key", "value", "reason"), BAD)
def test_a_value_past_its_limit_changes_nothing_and_is_named_as_it_was_sent(
    shelf: Shelf, key: str, value: Any, reason: str
) -> None:
    spelled = key.title().replace("_", "")
    fault = refused(shelf, {"author": "New", spelled: value})
    assert isinstance(fault, NotWritten) and fault.code is ErrorCode.INVALID_ARGUMENT
    assert set(fault.results) == {spelled} and reason in fault.results[spelled]
    assert fault.info.details["field"] == f"metadata.{spelled}"


def test_all_that_is_bad_is_told_at_once(shelf: Shelf) -> None:
    fault = refused(shelf, {"name": 1, "rating": 9, "author": "well"})
    assert isinstance(fault, NotWritten) and set(fault.results) == {"name", "rating"}
    assert "and 1 more" in str(fault)


def test_without_validation_unknown_keys_are_custom_and_bad_values_stay_bad(shelf: Shelf) -> None:
    reply = update(shelf, {"Mood": "calm", "custom": {"a": 1}}, validate=False)
    assert reply.updated_fields == ["custom"]
    assert reply.updated_model.metadata.custom == {"Mood": "calm", "a": 1}
    assert isinstance(refused(shelf, {"mood": "x", "rating": 6}, validate=False), NotWritten)


def test_custom_keys_are_merged_and_null_takes_one_out(shelf: Shelf) -> None:
    update(shelf, {"custom": {"a": 1, "b": 2}})
    assert update(shelf, {"custom": {"b": None, "c": 3}}).updated_model.metadata.custom == {"a": 1, "c": 3}
    many = {str(index): 1 for index in range(written.MOST_CUSTOM)}
    update(shelf, {"custom": {"a": None, "c": None, **many}})
    assert "1001 keys" in str(refused(shelf, {"custom": {"one more": 1}}))


def test_null_gives_the_files_own_word_back(shelf: Shelf) -> None:
    update(shelf, {"name": "Mine", "author": "Me", "tags": ["x"], "version": "2"})
    reply = update(shelf, {"name": None, "author": None, "tags": None, "version": None})
    model = reply.updated_model
    assert (model.name, model.metadata.author, model.metadata.tags) == ("Stated", "Zoë", ["night", "sky"])
    assert model.version == "" and "updated_model.version" in reply.not_measured


def test_tags_and_description_of_the_command_win(shelf: Shelf) -> None:
    reply = update(shelf, {"tags": ["low"], "description": "low"}, tags=["high"], description="high")
    assert (reply.updated_model.metadata.tags, reply.updated_model.description) == (["high"], "high")
    assert set(reply.updated_fields) == {"tags", "description"}


def test_a_revision_grows_with_each_change_and_an_old_one_is_told_the_new(shelf: Shelf) -> None:
    start = shelf.info("one").model.revision
    first = update(shelf, {"name": "A"}, revision=start)
    assert first.revision == first.updated_model.revision == start + 1
    fault = refused(shelf, {"name": "B"}, revision=start)
    assert fault.code is ErrorCode.INVALID_ARGUMENT and fault.info.retryable
    assert fault.info.details == {"field": "revision", "revision": start + 1}
    assert update(shelf, {"name": "B"}, revision=start + 1).revision == start + 2


def test_what_changes_nothing_is_no_revision(shelf: Shelf) -> None:
    first = update(shelf, {"name": "A"})
    again = update(shelf, {"name": "A"})
    assert (again.updated_fields, again.revision, again.updated_at) == ([], first.revision, first.updated_at)


def test_a_change_is_due_to_be_told_and_a_refusal_is_not(shelf: Shelf) -> None:
    shelf.catalogue.take_changed()
    update(shelf, {"name": "A"})
    assert [ref.model_id for ref in shelf.catalogue.take_changed()[0]] == ["one"]
    refused(shelf, {"name": 1})
    assert shelf.catalogue.take_changed() == ([], [])


def test_lists_find_and_order_by_what_was_written(shelf: Shelf) -> None:
    update(shelf, {"name": "Aardvark", "tags": ["zebra"]}, model_id="sd")
    assert shelf.ids() == ["sd", "one"]
    assert shelf.ids(search_query="zebra") == ["sd"]


def test_a_registration_takes_metadata_by_the_same_rules(shelf: Shelf) -> None:
    path = tensor_file(shelf.root / "new.safetensors", SD15_NAMES)
    with pytest.raises(NotWritten):
        shelf.register(path, metadata={"rating": 9})
    assert "new" not in shelf.ids()
    reply = shelf.register(path, metadata={"name": "Fresh", "rating": 4})
    assert reply.model.name == "Fresh" and shelf.reopen().info("new").model.name == "Fresh"


def test_a_file_that_changes_keeps_what_was_written(shelf: Shelf) -> None:
    update(shelf, {"name": "Mine"})
    tensor_file(shelf.root / "one.safetensors", [*SD15_NAMES, "more"], SPEC)
    assert shelf.scan().updated == ["one"]
    assert shelf.info("one").model.name == "Mine"


# on disk


def test_a_sidecar_lies_beside_the_model_and_brings_a_new_catalogue_up_to_date(shelf: Shelf, tmp_path: Path) -> None:
    for model_id, file in (("one", "one.safetensors"), ("sd", "sd")):
        reply = update(shelf, {"name": f"Of {model_id}", "rating": 3}, model_id=model_id)
        assert reply.warnings == []
        content = json.loads((shelf.root / f"{file}{sidecar.SUFFIX}").read_text())
        assert (content["model_id"], content["revision"]) == (model_id, reply.revision)
        assert content["written"]["name"] == f"Of {model_id}"
    shelf.store.close()
    fresh = Shelf(shelf.root, tmp_path / "other data")
    fresh.scan()
    assert [fresh.info(model_id).model.name for model_id in ("one", "sd")] == ["Of one", "Of sd"]
    assert sorted(fresh.ids()) == ["one", "sd"]


def test_each_id_of_a_file_keeps_its_own_words_through_a_catalogue_begun_anew(shelf: Shelf) -> None:
    shelf.register(shelf.root / "one.safetensors", model_id="uno")
    update(shelf, {"name": "First"})
    assert update(shelf, {"name": "Second"}, model_id="uno").warnings == []
    content = json.loads((shelf.root / f"one.safetensors{sidecar.SUFFIX}").read_text())
    assert (content["model_id"], content["written"]["name"]) == ("one", "First")
    shelf.store.close()
    (shelf.data / FILE_NAME).unlink()
    again = Shelf(shelf.root, shelf.data)
    again.scan()
    again.register(shelf.root / "one.safetensors", model_id="uno")
    assert {name: again.info(name).model.name for name in ("one", "uno")} == {"one": "First", "uno": "Second"}


@pytest.mark.parametrize("newer", ["beside", "elsewhere"])
def test_of_two_sidecars_of_one_id_the_later_revision_stands(shelf: Shelf, newer: str) -> None:
    update(shelf, {"name": "Beside"})
    path = shelf.root / f"one.safetensors{sidecar.SUFFIX}"
    content = json.loads(path.read_text())
    content["written"]["name"], content["revision"] = "Elsewhere", content["revision"] + (newer == "elsewhere") * 2 - 1
    shelf.store.close()
    (shelf.data / FILE_NAME).unlink()
    (shelf.data / "sidecars").mkdir()
    (shelf.data / "sidecars" / f"one{sidecar.SUFFIX}").write_text(json.dumps(content))
    again = Shelf(shelf.root, shelf.data)
    again.scan()
    assert again.info("one").model.name == newer.capitalize()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b"\xff", b" " * (sidecar.LIMIT_BYTES + 1)])
def test_a_sidecar_of_garbage_is_left_alone(shelf: Shelf, tmp_path: Path, content: bytes) -> None:
    path = shelf.root / f"one.safetensors{sidecar.SUFFIX}"
    path.write_bytes(content)
    fresh = Shelf(shelf.root, tmp_path / "other data")
    fresh.scan()
    assert fresh.info("one").model.name == "Stated" and path.read_bytes() == content


@pytest.mark.parametrize("bad", [{"rating": 9}, {"source_url": "javascript:x"}, {"name": LINE + "x"}, {"tags": [" "]}])
def test_a_sidecar_is_held_to_a_clients_rules(shelf: Shelf, tmp_path: Path, bad: dict[str, Any]) -> None:
    update(shelf, {"name": "Mine"})
    path = shelf.root / f"one.safetensors{sidecar.SUFFIX}"
    content = json.loads(path.read_text())
    for number, (written_, shown) in enumerate((({"author": "Ada"}, "Mine"), (bad, "Stated"))):
        path.write_text(json.dumps({**content, "written": {**content["written"], **written_}}))
        fresh = Shelf(shelf.root, tmp_path / f"data {number}")
        fresh.scan()
        assert fresh.info("one").model.name == shown


def test_a_registration_takes_a_sidecar_in_and_writes_one(shelf: Shelf, tmp_path: Path) -> None:
    update(shelf, {"name": "Mine", "rating": 2})
    fresh = Shelf(shelf.root, tmp_path / "other data")
    reply = fresh.register(shelf.root / "one.safetensors", metadata={"rating": 4})
    assert reply.model.name == "Mine" and reply.warnings == []
    content = json.loads((shelf.root / f"one.safetensors{sidecar.SUFFIX}").read_text())["written"]
    assert (content["name"], content["rating"]) == ("Mine", 4.0)


def test_a_registration_that_is_not_on_disk_yet_keeps_its_metadata(shelf: Shelf) -> None:
    path = tensor_file(shelf.root / "new.safetensors", SD15_NAMES)
    shelf.store._db.execute("PRAGMA busy_timeout = 0")
    with sqlite3.connect(shelf.data / FILE_NAME, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        reply = shelf.register(path, metadata={"name": "Fresh"})
        other.execute("ROLLBACK")
    assert reply.model.name == "Fresh" and "not on disk yet" in reply.warnings[-1]
    assert shelf.reopen().info("new").model.name == "Fresh"


def test_a_sidecar_that_leads_out_of_the_roots_is_not_read(shelf: Shelf, tmp_path: Path) -> None:
    update(shelf, {"name": "Mine"})
    path = shelf.root / f"one.safetensors{sidecar.SUFFIX}"
    path.rename(tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    fresh = Shelf(shelf.root, tmp_path / "other data")
    fresh.scan()
    assert fresh.info("one").model.name == "Stated"


def failing_in(folder: Path, number: int) -> Callable[[Path, bytes], None]:
    real = sidecar.place

    def place(path: Path, data: bytes) -> None:
        if path.is_relative_to(folder):
            raise OSError(number, os.strerror(number))
        real(path, data)

    return place


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written_the_sidecar_goes_to_the_data_folder_and_says_so(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(sidecar, "place", failing_in(shelf.root, number))
    (warning,) = update(shelf, {"name": "Mine"}).warnings
    spare = shelf.data / "sidecars" / f"one{sidecar.SUFFIX}"
    assert str(spare) in warning and os.strerror(number) in warning and spare.is_file()
    shelf.store.close()
    (shelf.data / FILE_NAME).unlink()
    fresh = Shelf(shelf.root, shelf.data)
    fresh.scan()
    assert fresh.info("one").model.name == "Mine"


def test_a_full_disk_costs_the_sidecar_and_says_so(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sidecar, "place", failing_in(shelf.root, errno.ENOSPC))
    (warning,) = update(shelf, {"name": "Mine"}).warnings
    assert "No space left" in warning and shelf.reopen().info("one").model.name == "Mine"


def test_a_database_that_takes_nothing_changes_nothing(shelf: Shelf) -> None:
    shelf.store._db.execute("PRAGMA busy_timeout = 0")
    with sqlite3.connect(shelf.data / FILE_NAME, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        fault = refused(shelf, {"name": "Mine"})
        assert fault.code is ErrorCode.INTERNAL_ERROR and fault.info.retryable and "locked" in str(fault)
        other.execute("ROLLBACK")
    assert not (shelf.root / f"one.safetensors{sidecar.SUFFIX}").exists()
    assert update(shelf, {"name": "Mine"}).updated_fields == ["name"]


POINTS = ("open", "fsync", "replace", "close")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_write_leaves_the_old_state_or_the_new(shelf: Shelf, point: str, after: bool) -> None:
    update(shelf, {"name": "Old"})
    shelf.store.close()
    child = os.fork()
    if child == 0:
        own = Shelf(shelf.root, shelf.data)
        dies_at(point, after=after, act=lambda: update(own, {"name": "New"}))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    again = Shelf(shelf.root, shelf.data)
    assert again.info("one").model.name in ("Old", "New")
    content = json.loads((shelf.root / f"one.safetensors{sidecar.SUFFIX}").read_text())
    assert content["written"]["name"] in ("Old", "New")
    assert update(again, {"name": "Newest"}).updated_model.name == "Newest"
    assert again.scan().rejected == []
