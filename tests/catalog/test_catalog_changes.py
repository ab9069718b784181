"""What counts as a change: other content. Times, modes, links and inodes only say that a file must be looked at."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file
from shelf import Shelf

from catalog import hashing
from protocol.enums import HashDepth


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    tensor_file(shelf.root / "one.safetensors", SD15_NAMES)
    pipeline_folder(shelf.root / "sd")
    json_file(shelf.root / "v.vmodel.json", PROFILE)
    shelf.scan()
    shelf.mark()
    return shelf


def files(shelf: Shelf) -> list[Path]:
    return [path for path in shelf.root.rglob("*") if path.is_file()]


def touch(path: Path) -> None:
    os.utime(path)


def forget_the_time(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def change_mode(path: Path) -> None:
    path.chmod(0o600)


def link(path: Path) -> None:
    os.link(path, path.with_name(f"{path.name}.copy"))


def rewrite(path: Path) -> None:
    shutil.copy(path, path.with_name(".new"))
    path.with_name(".new").replace(path)


@pytest.mark.parametrize("depth", HashDepth)
@pytest.mark.parametrize("touched", [touch, forget_the_time, change_mode, link, rewrite], ids=lambda how: how.__name__)
def test_a_file_that_holds_what_it_held_is_no_change(
    shelf: Shelf, touched: Callable[[Path], None], depth: HashDepth
) -> None:
    shelf.scan(depth)
    before = {model.id: model for model in shelf.listed().models}
    for path in files(shelf):
        touched(path)
    found = shelf.scan(depth)
    assert (found.updated, found.added, found.missing) == ([], [], [])
    assert {model.id: model for model in shelf.listed().models} == before
    assert shelf.reopen().scan().updated == []


def other_content(path: Path, where: float) -> None:
    """Another byte somewhere, under the old size, time and inode."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(int((status.st_size - 1) * where))
        old = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([old[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("depth", HashDepth)
def test_other_content_under_the_old_size_and_time_is_a_change(shelf: Shelf, depth: HashDepth) -> None:
    shelf.scan(depth)
    before = shelf.info("one").model
    other_content(shelf.root / "one.safetensors", 1.0)
    assert shelf.scan(depth).updated == ["one"]
    after = shelf.info("one").model
    assert after.revision > before.revision
    assert (after.checksum != before.checksum) == (depth is not HashDepth.NONE)


def test_a_changed_weight_file_of_a_folder_is_that_models_change(shelf: Shelf) -> None:
    other_content(next((shelf.root / "sd").rglob("*.safetensors")), 1.0)
    assert shelf.scan().updated == ["sd"]
    assert shelf.scan().updated == []


def test_what_nobody_marked_could_hold_anything(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    tensor_file(shelf.root / "one.safetensors", SD15_NAMES)
    shelf.scan()
    touch(shelf.root / "one.safetensors")
    assert shelf.scan().updated == ["one"]
    shelf.mark()
    touch(shelf.root / "one.safetensors")
    assert shelf.scan().updated == []


def test_marks_are_no_change_that_anybody_sees_and_are_made_once(shelf: Shelf) -> None:
    assert shelf.catalogue.spare_work() is None
    shelf.catalogue.take_changed()
    revision = shelf.info("one").model.revision
    tensor_file(shelf.root / "two.safetensors", SD15_NAMES)
    shelf.scan()
    assert shelf.catalogue.take_changed()[0][0].model_id == "two"
    assert shelf.mark() == 1
    assert shelf.catalogue.take_changed() == ([], [])
    assert shelf.info("one").model.revision == revision
    again = shelf.reopen()
    assert again.catalogue.spare_work() is None


def test_a_file_that_changed_before_it_was_marked_waits_for_the_next_scan(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    path = tensor_file(shelf.root / "one.safetensors", SD15_NAMES)
    shelf.scan()
    other_content(path, 1.0)
    shelf.mark()
    assert shelf.store.entries["one"].mark == ""
    assert shelf.scan().updated == ["one"]
    path.unlink()
    shelf.mark()
    assert shelf.store.entries["one"].mark == ""


def test_a_full_checksum_decides_where_samples_see_nothing(shelf: Shelf, tmp_path: Path) -> None:
    path = tensor_file(shelf.root / "large.safetensors", {f"t{n}": [400, 400] for n in range(3)})
    size = path.stat().st_size
    assert size > hashing.WHOLE_BYTES + 3 * hashing.SPOT_BYTES
    shelf.scan(HashDepth.FULL)
    shelf.mark()
    before = shelf.info("large").model.checksum
    begin, length = hashing._spots(size)[3]
    other_content(path, (begin + length + 1) / (size - 1))
    found = shelf.scan(HashDepth.FULL)
    assert found.updated == ["large"]
    assert shelf.info("large").model.checksum != before


@pytest.mark.parametrize("size", [0, 1, 64 << 10, (64 << 10) + 1, 5 << 20, 1 << 33])
def test_a_mark_reads_little_within_the_file_and_its_end(size: int) -> None:
    spots = hashing._spots(size)
    assert all(begin >= 0 and begin + length <= size for begin, length in spots)
    assert spots[-1][0] + spots[-1][1] == size and spots[0][0] == 0
    assert sum(length for _, length in spots) <= 256 << 10
    gaps = [after[0] - (before[0] + before[1]) for before, after in pairwise(spots)]
    assert max(gaps, default=0) <= size / 30
