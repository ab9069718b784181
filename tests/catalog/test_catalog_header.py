"""What clients write, in the header of a model's own file: all of it, and nothing else touched."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file
from shelf import Shelf, dies_at

from catalog import rewriting
from catalog.header import KEY
from modelfiles.headers import LONGEST_METADATA
from protocol import commands as c
from protocol.enums import HashDepth, ModelStatus
from protocol.errors import ErrorCode, Fault

OWN = {"modelspec.title": "Élan", "modelspec.license": "MIT", "ss_steps": "7", "long": "x" * (LONGEST_METADATA + 1)}
WORDS: dict[str, Any] = {
    "name": "Neuer Name ☂",
    "author": "Zoë",
    "description": "Paints",
    "tags": ["a, b", "c"],
    "rating": 4.5,
    "created_date": "2025-01-02T03:04:05Z",
    "custom": {"mood": {"deep": [1, None]}},
}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    tensor_file(shelf.root / "one.safetensors", SD15_NAMES, OWN)
    shelf.scan()
    return shelf


def header(path: Path) -> tuple[dict[str, Any], bytes, int]:
    """A file's header, its data, and where that begins."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :], 8 + length


def words(path: Path) -> dict[str, str]:
    found: dict[str, str] = header(path)[0]["__metadata__"]
    return found


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.endswith(".rewriting")]


def refused(shelf: Shelf, model_id: str = "one", **fields: Any) -> Fault:
    with pytest.raises(Fault) as caught:
        shelf.update(model_id, {"name": "New"}, write_header=True, **fields)
    return caught.value


def test_what_is_written_stands_in_the_header_and_nothing_else_changes(shelf: Shelf) -> None:
    path = shelf.root / "one.safetensors"
    path.chmod(0o640)
    shelf.scan()
    tensors, data, _ = header(path)
    reply = shelf.update("one", WORDS, write_header=True)
    after, data_after, _ = header(path)
    assert data_after == data
    assert {key: after[key] for key in after if key != "__metadata__"} == {
        key: tensors[key] for key in tensors if key != "__metadata__"
    }
    found = after["__metadata__"]
    assert {key: found[key] for key in OWN if key != "modelspec.title"} == {
        key: OWN[key] for key in OWN if key != "modelspec.title"
    }
    assert (found["modelspec.title"], found["modelspec.author"]) == (WORDS["name"], "Zoë")
    assert (found["modelspec.tags"], found["modelspec.date"]) == ("a, b, c", "2025-01-02T03:04:05+00:00")
    assert json.loads(found[KEY])["rating"] == 4.5
    assert path.stat().st_mode & 0o777 == 0o640
    assert reply.updated_model is not None and reply.updated_model.name == WORDS["name"]
    assert reply.revision == shelf.info("one").model.revision
    scan = shelf.scan()
    assert (scan.updated, scan.rejected, leftovers(shelf.root)) == ([], [], [])


def test_a_file_that_travels_alone_takes_its_words_along(shelf: Shelf, tmp_path: Path) -> None:
    shelf.update("one", WORDS, write_header=True)
    other = Shelf(tmp_path / "elsewhere", tmp_path / "other-data")
    (shelf.root / "one.safetensors").rename(other.root / "moved.safetensors")
    other.scan()
    model = other.info("moved", include_performance=True)
    assert model.model.name == WORDS["name"]
    assert model.model.metadata.tags == WORDS["tags"]
    assert model.model.metadata.custom["mood"] == {"deep": [1, None]}
    assert model.usage_stats is not None and model.usage_stats.user_rating == 4.5


def test_what_is_taken_back_leaves_the_header_and_the_files_own_words_stay(shelf: Shelf) -> None:
    path = shelf.root / "one.safetensors"
    shelf.update("one", {"author": "Zoë", "license": "CC0"}, write_header=True)
    shelf.update("one", {"author": None}, write_header=True)
    assert "modelspec.author" not in words(path)
    assert words(path)["modelspec.license"] == "CC0"
    assert words(path)["modelspec.title"] == "Élan"


def test_words_that_were_there_before_go_in_when_nothing_new_is_said(shelf: Shelf) -> None:
    shelf.update("one", {"author": "Zoë"})
    assert "modelspec.author" not in words(shelf.root / "one.safetensors")
    reply = shelf.update("one", {}, write_header=True)
    assert reply.updated_fields == []
    assert words(shelf.root / "one.safetensors")["modelspec.author"] == "Zoë"


@pytest.mark.parametrize("size", [1, 100, 10_000])
def test_data_stays_where_it_lies_within_a_block(shelf: Shelf, size: int) -> None:
    path = shelf.root / "one.safetensors"
    begin = header(path)[2]
    shelf.update("one", {"description": "d" * size}, write_header=True)
    after = header(path)[2]
    assert (after - begin) % rewriting.BLOCK_BYTES == 0
    shelf.update("one", {"description": "e" * size}, write_header=True)
    assert header(path)[2] == after


def test_a_header_takes_words_up_to_its_limit(shelf: Shelf) -> None:
    empty = len(json.dumps({"custom": {"k": ""}}, separators=(",", ":")))
    shelf.update("one", {"custom": {"k": "x" * (LONGEST_METADATA - empty)}}, write_header=True)
    with pytest.raises(Fault) as caught:
        shelf.update("one", {"custom": {"k": "x" * (LONGEST_METADATA - empty + 1)}}, write_header=True)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert caught.value.info.details["field"] == "write_header"
    assert len(shelf.info("one").model.metadata.custom["k"]) == LONGEST_METADATA - empty


@pytest.mark.parametrize("name", ["sd", "v"])
def test_what_is_no_single_file_has_no_header_to_write_into(shelf: Shelf, name: str) -> None:
    pipeline_folder(shelf.root / "sd")
    json_file(shelf.root / "v.vmodel.json", PROFILE)
    shelf.scan()
    fault = refused(shelf, name)
    assert (fault.code, fault.info.details["field"]) == (ErrorCode.NOT_SUPPORTED, "write_header")
    assert shelf.info(name).model.name != "New"


def test_a_file_that_is_gone_or_spoilt_is_not_written(shelf: Shelf) -> None:
    path = shelf.root / "one.safetensors"
    path.write_bytes(b"junk" * 10)
    assert refused(shelf).code is ErrorCode.MODEL_CORRUPTED
    shelf.scan()
    assert shelf.info("one").model.status is ModelStatus.Corrupted
    assert refused(shelf).code is ErrorCode.MODEL_CORRUPTED
    assert path.read_bytes() == b"junk" * 10
    path.unlink()
    shelf.scan()
    assert refused(shelf).code is ErrorCode.MODEL_NOT_FOUND


def fails(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    real = getattr(os, name)

    def failing(path: Any, *arguments: Any, **named: Any) -> Any:
        is_ours = name != "open" or arguments[0] & os.O_WRONLY
        if is_ours:
            raise OSError(number, os.strerror(number))
        return real(path, *arguments, **named)

    monkeypatch.setattr(os, name, failing)


@pytest.mark.parametrize(
    ("call", "number", "code"),
    [
        ("open", errno.EROFS, ErrorCode.NOT_SUPPORTED),
        ("open", errno.EACCES, ErrorCode.NOT_SUPPORTED),
        ("pwrite", errno.ENOSPC, ErrorCode.INTERNAL_ERROR),
        ("copy_file_range", errno.EIO, ErrorCode.INTERNAL_ERROR),
        ("fsync", errno.EIO, ErrorCode.INTERNAL_ERROR),
        ("link", errno.ENOSPC, ErrorCode.INTERNAL_ERROR),
    ],
)
def test_a_place_that_takes_no_file_leaves_all_as_it_was(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, call: str, number: int, code: ErrorCode
) -> None:
    path = shelf.root / "one.safetensors"
    before, name = path.read_bytes(), shelf.info("one").model.name
    with monkeypatch.context() as patch:
        fails(patch, call, number)
        fault = refused(shelf)
    assert (fault.code, fault.info.details["field"]) == (code, "write_header")
    assert os.strerror(number) in str(fault)
    assert (path.read_bytes(), shelf.info("one").model.name, leftovers(shelf.root)) == (before, name, [])
    assert shelf.update("one", {"name": "New"}, write_header=True).updated_fields == ["name"]


@pytest.mark.parametrize("free", [-1, 0])
def test_a_disk_with_less_room_than_the_new_file_takes_is_told_before_a_byte_is_written(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, free: int
) -> None:
    shelf.update("one", {"name": "Old"}, write_header=True)
    needed = (shelf.root / "one.safetensors").stat().st_size
    monkeypatch.setattr(rewriting, "free_bytes", lambda _: needed + free)
    if free < 0:
        fault = refused(shelf)
        assert fault.info.retryable and str(needed) in str(fault) and str(needed - 1) in str(fault)
    else:
        shelf.update("one", {"name": "New"}, write_header=True)


@pytest.mark.parametrize("lacking", ["names", "copies", "both"])
def test_a_file_system_without_nameless_files_or_copies_of_its_own_does_too(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch, lacking: str
) -> None:
    real = os.open

    def without_nameless(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "no")
        return real(path, flags, *arguments, **named)

    if lacking in ("names", "both"):
        monkeypatch.setattr(os, "open", without_nameless)
    if lacking in ("copies", "both"):
        fails(monkeypatch, "copy_file_range", errno.EXDEV)
    path = shelf.root / "one.safetensors"
    data = header(path)[1]
    (shelf.root / ".one.safetensors.0badcafe.rewriting").write_bytes(b"left by a kill")
    shelf.update("one", {"name": "New"}, write_header=True)
    assert (words(path)["modelspec.title"], header(path)[1], leftovers(shelf.root)) == ("New", data, [])


def steps_of(shelf: Shelf, **fields: Any) -> Any:
    work = shelf.catalogue.begin(
        c.UpdateMetadata(model_id="one", metadata={"name": "New"}, write_header=True, **fields)
    )
    assert work is not None
    return work


@pytest.mark.parametrize("how", ["updated", "unregistered", "replaced"])
def test_what_changes_meanwhile_is_not_overwritten(shelf: Shelf, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    path = shelf.root / "one.safetensors"
    monkeypatch.setattr(rewriting, "LOOK_SECONDS", 0.0)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (next_step.wait(20), real(number))[1])
    next_step = rewriting.threading.Event()
    work = steps_of(shelf)
    steps = work.steps()
    next(steps)
    monkeypatch.setattr(os, "fsync", real)
    if how == "updated":
        shelf.update("one", {"name": "Other"})
    elif how == "unregistered":
        shelf.unregister("one")
    else:
        tensor_file(shelf.root / "new", SD15_NAMES, {"modelspec.title": "Replaced"}).rename(path)
    before = path.read_bytes()
    next_step.set()
    with pytest.raises(Fault) as caught:
        for _ in steps:
            pass
    codes = {
        "updated": ErrorCode.INVALID_ARGUMENT,
        "unregistered": ErrorCode.MODEL_NOT_FOUND,
        "replaced": ErrorCode.MODEL_CORRUPTED,
    }
    assert caught.value.code is codes[how]
    assert caught.value.info.retryable or how == "unregistered"
    assert (path.read_bytes(), leftovers(shelf.root)) == (before, [])
    if how == "updated":
        assert shelf.info("one").model.name == "Other"
    if how == "replaced":
        assert shelf.info("one").model.name == "Élan"


def test_one_that_is_given_up_leaves_nothing(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    path = shelf.root / "one.safetensors"
    before = path.read_bytes()
    monkeypatch.setattr(rewriting, "LOOK_SECONDS", 0.0)
    work = steps_of(shelf)
    steps = work.steps()
    next(steps)
    steps.close()
    work.finish()
    for thread in rewriting.threading.enumerate():
        if thread.name == "rewriting":
            thread.join(20)
    assert (path.read_bytes(), leftovers(shelf.root)) == (before, [])
    assert not any(str(shelf.root) in str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.exists())
    assert shelf.info("one").model.name == "Élan"
    unbegun = steps_of(shelf).steps()
    unbegun.close()


def test_every_id_of_the_file_is_brought_up_to_date_and_a_checksum_is_another(shelf: Shelf) -> None:
    shelf.register(shelf.root / "one.safetensors", model_id="uno")
    shelf.scan(HashDepth.FULL)
    reply = shelf.update("one", {"author": "Zoë"}, write_header=True)
    assert any("checksum" in warning for warning in reply.warnings)
    assert shelf.info("uno").model.metadata.author == "Zoë"
    assert (shelf.info("one").model.checksum, shelf.info("uno").model.checksum) == ("", "")
    assert shelf.scan().updated == []


def test_a_link_of_the_hubs_cache_becomes_a_file_and_the_blob_stays(shelf: Shelf) -> None:
    repository = shelf.root / "models--org--net"
    blob = tensor_file(repository / "blobs" / "a.safetensors", SD15_NAMES).rename(repository / "blobs" / ("ab" * 32))
    link = repository / "snapshots" / "main" / "net.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    shelf.scan()
    content = blob.read_bytes()
    (model,) = (model for model in shelf.listed().models if model.file_path == str(link))
    reply = shelf.update(model.id, {"name": "New"}, write_header=True)
    assert any("was a link to" in warning for warning in reply.warnings)
    assert not link.is_symlink() and words(link)["modelspec.title"] == "New"
    assert blob.read_bytes() == content
    assert shelf.scan().updated == []


POINTS = ("pwrite", "copy_file_range", "fsync", "link", "replace", "close")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_any_write_leaves_the_old_file_or_the_new(shelf: Shelf, point: str, after: bool) -> None:
    path = shelf.root / "one.safetensors"
    shelf.update("one", {"name": "Old"}, write_header=True)
    data = header(path)[1]
    shelf.store.close()
    child = os.fork()
    if child == 0:
        work = steps_of(Shelf(shelf.root, shelf.data))
        dies_at(point, after=after, act=lambda: list(work.steps()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert words(path)["modelspec.title"] in ("Old", "New")
    assert header(path)[1] == data
    again = Shelf(shelf.root, shelf.data)
    scan = again.scan()
    assert (scan.rejected, scan.added) == ([], [])
    assert again.info("one").model.name in ("Old", "New")
    again.update("one", {"name": "Newest"}, write_header=True)
    assert (words(path)["modelspec.title"], leftovers(shelf.root)) == ("Newest", [])
