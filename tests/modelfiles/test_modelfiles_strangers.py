"""Files called models that are something else, and downloads that are not done: each is told for what it is."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
from model_bytes import tensor_file

from modelfiles.headers import read_header
from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol.errors import ErrorCode, Fault


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return file.getvalue()


STRANGERS: list[tuple[bytes, ErrorCode, str]] = [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", ErrorCode.MODEL_CORRUPTED, "Git LFS pointer"),
    (b"<!DOCTYPE html><html>log in</html>", ErrorCode.MODEL_CORRUPTED, "web page"),
    (b"\n  <HTML>", ErrorCode.MODEL_CORRUPTED, "web page"),
    (b"\xef\xbb\xbf<?xml version='1.0'?>", ErrorCode.MODEL_CORRUPTED, "web page"),
    (b'{"error":"Unauthorized"}', ErrorCode.MODEL_CORRUPTED, "JSON text"),
    (b'[{"error": 1}]', ErrorCode.MODEL_CORRUPTED, "JSON text"),
    (b"GGUF\x03\x00\x00\x00" + bytes(40), ErrorCode.MODEL_CORRUPTED, "GGUF"),
    (b"\x89HDF\r\n\x1a\n" + bytes(40), ErrorCode.MODEL_CORRUPTED, "HDF5"),
    (b"\x08\x07\x12\x07pytorch" + bytes(40), ErrorCode.MODEL_CORRUPTED, "ONNX"),
    (b"\x1f\x8b\x08" + bytes(40), ErrorCode.MODEL_CORRUPTED, "gzip"),
    (bytes(1 << 20), ErrorCode.MODEL_CORRUPTED, "nothing but zeros"),
    (pickle.dumps({"state_dict": [1] * 20}, protocol=2), ErrorCode.UNSAFE_MODEL, "pickle"),
    (pickle.dumps({"state_dict": [1] * 20}, protocol=4), ErrorCode.UNSAFE_MODEL, "pickle"),
    (zipped(), ErrorCode.UNSAFE_MODEL, "zip archive"),
]


@pytest.mark.parametrize(("data", "code", "words"), STRANGERS)
def test_what_is_no_safetensors_file_is_named_for_what_it_is(
    tmp_path: Path, data: bytes, code: ErrorCode, words: str
) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    with pytest.raises(Fault) as caught:
        inspect(path, Roots([tmp_path]))
    assert caught.value.code is code and words in str(caught.value) and "m.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [0x80, 0x280, 0x10280, 0x0804, 0x7B, 0x4B50, 0x8B1F])
def test_a_header_whose_length_looks_like_something_else_is_read(tmp_path: Path, length: int) -> None:
    """The first bytes of a real file are a number: 0x0280 begins as a pickle does."""
    path = tensor_file(tmp_path / "m.safetensors", ["w"])
    data = path.read_bytes()
    own = int.from_bytes(data[:8], "little")
    header = data[8 : 8 + own].ljust(max(length, own))
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + own :])
    assert [tensor.name for tensor in read_header(path).tensors] == ["w"]


def test_a_link_to_a_file_of_another_ending_is_known_by_its_own_name(tmp_path: Path) -> None:
    blob = tmp_path / "hub/blobs/fd7c2580"
    tensor_file(blob, ["w"])
    for root, well in ((tmp_path / "hub", True), (tmp_path / "hub/snapshots", False)):
        link = tmp_path / "hub/snapshots/rev/m.safetensors"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to("../../blobs/fd7c2580")
        if well:
            assert inspect(link, Roots([root])).path == str(link)
        else:
            with pytest.raises(Fault) as caught:
                inspect(link, Roots([root]))
            assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_a_link_to_a_model_is_the_model(tmp_path: Path) -> None:
    path = tensor_file(tmp_path / "m.safetensors", ["w"])
    (tmp_path / "link.safetensors").symlink_to(path)
    (tmp_path / "link.txt").symlink_to(path)
    assert inspect(tmp_path / "link.safetensors", Roots([tmp_path])).path == str(path)
