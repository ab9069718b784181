"""What counts as another content of a file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from modelfiles.contents import SAMPLE_BYTES, WHOLE_BYTES, Content

LARGE = 1 << 20


def write(path: Path, tensors: dict[str, bytes], metadata: dict[str, str] | None = None) -> Path:
    """A safetensors file of U8 tensors."""
    header: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    begin = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [begin, begin + len(data)]}
        begin += len(data)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors.values()))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "w.safetensors", {"small": bytes(WHOLE_BYTES), "large": bytes(LARGE)})


def changed(path: Path, before: Content) -> bool:
    return before.now().digest != before.digest


def test_times_links_and_modes_are_no_change(path: Path) -> None:
    before = Content.read(str(path))
    os.utime(path, ns=(1, 1))
    path.chmod(0o600)
    os.link(path, path.with_name("again"))
    assert not before.fingerprint.is_current() and not changed(path, before)


def test_a_copy_in_its_place_is_no_change(path: Path) -> None:
    before = Content.read(str(path))
    copy = path.with_suffix(".copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)
    assert not changed(path, before)


def test_metadata_in_the_header_is_none_of_the_content(path: Path) -> None:
    before = Content.read(str(path))
    write(path, {"small": bytes(WHOLE_BYTES), "large": bytes(LARGE)}, {"modelspec.title": "a name"})
    assert not changed(path, before)


@pytest.mark.parametrize(
    "at", [0, WHOLE_BYTES - 1, WHOLE_BYTES, WHOLE_BYTES + SAMPLE_BYTES - 1, WHOLE_BYTES + LARGE - 1]
)
def test_another_weight_is_a_change_though_size_and_time_are_the_same(path: Path, at: int) -> None:
    before, status = Content.read(str(path)), path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) - WHOLE_BYTES - LARGE + at] ^= 1
    with path.open("r+b") as file:
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert changed(path, before)


def test_one_whole_tensor_of_another_value_is_a_change(path: Path) -> None:
    before = Content.read(str(path))
    write(path, {"small": bytes(WHOLE_BYTES), "large": b"\1" * LARGE})
    assert changed(path, before)


def test_tensors_that_change_names_are_a_change(path: Path) -> None:
    before = Content.read(str(path))
    write(path, {"small": bytes(WHOLE_BYTES), "other": bytes(LARGE)})
    assert changed(path, before)


def test_what_is_no_safetensors_file_any_more_is_a_change(path: Path) -> None:
    before = Content.read(str(path))
    path.write_bytes(path.read_bytes()[:100])
    assert changed(path, before)


def test_every_byte_of_a_small_file_counts(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    before = Content.read(str(path))
    path.write_text('{"a": 2}')
    assert changed(path, before)
