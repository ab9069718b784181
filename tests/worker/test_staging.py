"""What the libraries are given to read: exactly the files that were checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelfiles.fingerprints import Fingerprint
from protocol.errors import ErrorCode, Fault
from worker.staging import Staging, clear_leftovers

DEVICE = "cpu:0"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.fp16.safetensors"
    path.write_bytes(b"checked")
    return path


def staging(tmp_path: Path, *checked: Path) -> Staging:
    return Staging(tmp_path / "runtime", DEVICE, [Fingerprint.of(path) for path in checked])


def test_a_file_is_found_under_the_name_that_the_library_looks_for(tmp_path: Path, weights: Path) -> None:
    (weights.parent / "model.safetensors.index.json").write_text("{}")
    with staging(tmp_path, weights) as staged:
        folder = Path(staged.folder("unet", {"model.safetensors": str(weights)}))
        assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
        assert (folder / "model.safetensors").read_bytes() == b"checked"
    assert list((tmp_path / "runtime").iterdir()) == []


def test_what_takes_a_checked_files_place_is_not_read(tmp_path: Path, weights: Path) -> None:
    with staging(tmp_path, weights) as staged:
        link = Path(staged.file(str(weights), "model.safetensors"))
        other = tmp_path / "other"
        other.write_bytes(b"another")
        other.replace(weights)
        assert link.read_bytes() == b"checked"
        staged.verify()


def test_what_was_replaced_between_check_and_opening_is_corrupted(tmp_path: Path, weights: Path) -> None:
    with staging(tmp_path, weights) as staged:
        weights.write_bytes(b"another one")
        with pytest.raises(Fault, match="changed after it was checked") as raised:
            staged.file(str(weights), "model.safetensors")
    assert (raised.value.code, raised.value.info.retryable) == (ErrorCode.MODEL_CORRUPTED, True)


def test_what_is_written_to_while_it_is_read_is_corrupted(tmp_path: Path, weights: Path) -> None:
    with staging(tmp_path, weights) as staged:
        staged.file(str(weights), "model.safetensors")
        weights.write_bytes(b"another")
        os.utime(weights, ns=(1, 1))
        with pytest.raises(Fault, match="changed after it was checked"):
            staged.verify()


def test_links_modes_and_neighbours_are_no_change(tmp_path: Path, weights: Path) -> None:
    with staging(tmp_path, weights) as staged:
        staged.file(str(weights), "model.safetensors")
        os.link(weights, tmp_path / "again")
        weights.chmod(0o400)
        (tmp_path / "notes.txt").write_text("beside it")
        staged.verify()


def test_a_file_that_nobody_checked_is_not_given(tmp_path: Path, weights: Path) -> None:
    with staging(tmp_path) as staged, pytest.raises(Fault) as raised:
        staged.file(str(weights), "model.safetensors")
    assert raised.value.code is ErrorCode.UNSAFE_MODEL


def test_a_runtime_folder_that_takes_nothing_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "runtime").write_text("a file in the way")
    with pytest.raises(Fault) as raised:
        staging(tmp_path)
    assert raised.value.code is ErrorCode.MODEL_LOADING_FAILED and raised.value.info.retryable


def test_leftovers_of_a_killed_worker_go_and_others_stay(tmp_path: Path, weights: Path) -> None:
    staged = staging(tmp_path, weights)
    other = Staging(tmp_path / "runtime", "cpu:1", [])
    clear_leftovers(tmp_path / "runtime", DEVICE)
    assert len(list((tmp_path / "runtime").iterdir())) == 1
    for one in (staged, other):
        one.__exit__(None, None, None)
