from __future__ import annotations

import math
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_bytes import header_file, tensor_file

from modelfiles import headers, jsonfile
from modelfiles.headers import dtype_bytes, read_header
from modelfiles.jsonfile import read_object
from protocol.errors import ErrorCode, Fault


def entry(begin: int, end: int, shape: list[object] | None = None, dtype: str = "U8") -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - begin] if shape is None else shape, "data_offsets": [begin, end]}


def refused(path: Path) -> Fault:
    with pytest.raises(Fault) as caught:
        read_header(path)
    assert caught.value.code is ErrorCode.MODEL_CORRUPTED
    return caught.value


def test_sound_file_gives_its_tensors_in_order_of_offset(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"a": "b"},
        "second": entry(4, 10),
        "first": entry(0, 4, [1], "F32"),
        "none": entry(10, 10),
    }
    found = read_header(header_file(tmp_path / "m.safetensors", header, bytes(10)))
    assert [(t.name, t.dtype, t.shape, t.begin, t.end) for t in found.tensors] == [
        ("first", "F32", (1,), 0, 4),
        ("second", "U8", (6,), 4, 10),
        ("none", "U8", (0,), 10, 10),
    ]
    assert found.metadata == {"a": "b"}
    assert dtype_bytes(found.tensors) == {"F32": 4, "U8": 6}
    assert found.data_bytes == 10


def test_half_byte_types_are_counted_in_bits(tmp_path: Path) -> None:
    found = read_header(header_file(tmp_path / "m.safetensors", {"w": entry(0, 3, [2, 3], "F4")}, bytes(3)))
    assert found.tensors[0].bytes == 3
    refused(header_file(tmp_path / "odd.safetensors", {"w": entry(0, 2, [3], "F4")}, bytes(2)))


@pytest.mark.parametrize(
    "header",
    [
        {"a": entry(0, 4), "b": entry(2, 6)},
        {"a": entry(0, 4), "b": entry(0, 4)},
        {"a": entry(0, 2), "b": entry(4, 6)},
        {"a": entry(2, 6)},
        {"a": entry(0, 7)},
        {"a": entry(0, 5)},
        {"a": entry(-6, 0, [6])},
        {"a": entry(6, 0, [6])},
        {"a": entry(0, 6, [-6])},
        {"a": entry(0, 6, [6.0])},
        {"a": entry(0, 6, [True])},
        {"a": entry(0, 6, [2])},
        {"a": entry(0, 6, [1 << 40, 1 << 40])},
        {"a": entry(0, 6, [6], "X9")},
        {"a": {"dtype": "U8", "shape": [6]}},
        {"a": {**entry(0, 6), "code": "x"}},
        {"a": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6, 6]}},
        {"a": 1},
        {"__metadata__": {"a": 1}, "a": entry(0, 6)},
        {"__metadata__": [], "a": entry(0, 6)},
        {},
        [1],
        b'{"a": 1, "a": 2}',
        b" {}",
        b'{"a":NaN}',
        b'{"\xff":1}',
        b"{",
        b"",
        b'{"a":' + b"[" * 100_000,
    ],
)
def test_header_that_lies_about_six_bytes_of_data_is_corrupted(tmp_path: Path, header: object) -> None:
    refused(header_file(tmp_path / "m.safetensors", header, bytes(6)))


@pytest.mark.parametrize("size", [0, 1, 7, 8])
def test_file_too_short_for_a_header_is_corrupted(tmp_path: Path, size: int) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(bytes(size))
    refused(path)


@pytest.mark.parametrize("kept", [4, 20, -1])
def test_truncated_file_is_corrupted(tmp_path: Path, kept: int) -> None:
    path = tensor_file(tmp_path / "m.safetensors", ["w"])
    path.write_bytes(path.read_bytes()[:kept])
    refused(path)


def test_header_on_the_limit_is_read_and_one_past_it_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = header_file(tmp_path / "m.safetensors", b'{"__metadata__":{}}' + b" " * 81)
    monkeypatch.setattr(headers, "HEADER_LIMIT_BYTES", 100)
    assert read_header(path).tensors == ()
    monkeypatch.setattr(headers, "HEADER_LIMIT_BYTES", 99)
    assert refused(path).info.details == {"header_bytes": 100, "limit_bytes": 99}


def test_dimensions_up_to_the_limit_are_read_and_one_more_is_not(tmp_path: Path) -> None:
    most = headers.MOST_DIMENSIONS
    sound = header_file(tmp_path / "m.safetensors", {"w": entry(0, 6, [*[1] * (most - 1), 6])}, bytes(6))
    assert len(read_header(sound).tensors[0].shape) == most
    fault = refused(header_file(tmp_path / "n.safetensors", {"w": entry(0, 6, [*[1] * most, 6])}, bytes(6)))
    assert f"{most + 1} dimensions" in fault.info.message
    huge = {"w": entry(0, 6, [(1 << 62) - 1] * 200_000)}
    assert "200000 dimensions" in refused(header_file(tmp_path / "o.safetensors", huge, bytes(6))).info.message


def test_names_up_to_the_limit_are_read_and_one_longer_is_not(tmp_path: Path) -> None:
    most = headers.LONGEST_NAME
    assert read_header(header_file(tmp_path / "m.safetensors", {"n" * most: entry(0, 6)}, bytes(6))).tensors
    fault = refused(header_file(tmp_path / "n.safetensors", {"n" * (most + 1): entry(0, 6)}, bytes(6)))
    assert f"name of {most + 1} characters" in fault.info.message and len(fault.info.message) < 300


@pytest.mark.parametrize("with_metadata", [True, False])
def test_tensors_up_to_the_limit_are_read_and_one_more_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_metadata: bool
) -> None:
    monkeypatch.setattr(headers, "MOST_TENSORS", 50)
    more = {"__metadata__": {"a": "b"}} if with_metadata else {}
    tensors = {f"t{index}": entry(0, 0) for index in range(50)}
    assert len(read_header(header_file(tmp_path / "m.safetensors", tensors | more)).tensors) == 50
    tensors["one more"] = entry(0, 0)
    assert "51 tensors" in refused(header_file(tmp_path / "n.safetensors", tensors | more)).info.message


def test_metadata_up_to_its_limits_is_kept_and_what_is_longer_stays_in_the_file(tmp_path: Path) -> None:
    key, text = "k" * headers.LONGEST_KEY, "t" * headers.LONGEST_METADATA
    metadata = {key: "a", key + "k": "b", "c": text, "d": text + "t", "e": "f"}
    found = read_header(header_file(tmp_path / "m.safetensors", {"__metadata__": metadata, "w": entry(0, 6)}, bytes(6)))
    assert found.metadata == {key: "a", "c": text, "e": "f"}
    many = {str(index): "x" for index in range(headers.MOST_METADATA + 1)}
    found = read_header(header_file(tmp_path / "n.safetensors", {"__metadata__": many, "w": entry(0, 6)}, bytes(6)))
    assert len(found.metadata) == headers.MOST_METADATA


def test_a_header_of_lists_or_objects_without_end_is_given_up_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonfile, "MOST_VALUES", 1000)
    sound = {"w": {"dtype": "U8", "shape": [6], "data_offsets": [0, 6]}, "__metadata__": {"tags": "," * 990}}
    assert read_header(header_file(tmp_path / "m.safetensors", sound, bytes(6))).tensors
    for text in (b'{"w":[' + b"1," * 1000 + b"1]}", b'{"w":{' + b'"a":1,' * 1000 + b'"b":1}}'):
        assert "1001 values" in refused(header_file(tmp_path / "n.safetensors", text, bytes(6))).info.message
    nested = b'{"w":' + b'{"a":' * 300 + b"{}" + b"}" * 301
    monkeypatch.setattr(headers, "MOST_TENSORS", 100)
    assert "more than 103 objects" in refused(header_file(tmp_path / "o.safetensors", nested, bytes(6))).info.message


@pytest.mark.parametrize("number", ["1e999", "-1e999", "9" * 41, "NaN"])
def test_a_number_beyond_any_use_is_refused_where_it_is_read(tmp_path: Path, number: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{"a": [{number}]}}')
    with pytest.raises(Fault) as caught:
        read_object(path)
    assert caught.value.code is ErrorCode.MODEL_CORRUPTED
    path.write_text(f'{{"a": [1e308, {"9" * 40}, -1.5, -Infinity]}}')
    assert read_object(path)["a"] == [1e308, int("9" * 40), -1.5, -math.inf]


def test_length_beyond_the_real_limit_is_refused_without_reading(tmp_path: Path) -> None:
    fault = refused(header_file(tmp_path / "m.safetensors", {}, length=100_000_001))
    assert "100000000" in fault.info.message
    fault = refused(header_file(tmp_path / "n.safetensors", {}, length=100_000_000))
    assert "only 2" in fault.info.message


def test_pipe_and_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    refused(tmp_path / "pipe.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    refused(tmp_path / "folder.safetensors")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200), position=st.integers(0, 150))
def test_garbage_parses_or_is_corrupted_and_nothing_else(tmp_path: Path, data: bytes, position: int) -> None:
    path = tensor_file(tmp_path / "m.safetensors", {"w": [2, 3], "v": [1]}, {"k": "v"})
    sound = path.read_bytes()
    for text in (data, sound[:position] + data + sound[position:], sound[:position] + data):
        path.write_bytes(text)
        try:
            read_header(path)
        except Fault as fault:
            assert fault.code in (ErrorCode.MODEL_CORRUPTED, ErrorCode.UNSAFE_MODEL)


def settled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file was written long enough ago."""
    later = path.stat().st_ctime_ns + headers.SETTLED_NS + 1
    monkeypatch.setattr(headers.time, "time_ns", lambda: later)


def test_a_header_that_was_read_is_not_read_again_while_its_file_is_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tensor_file(tmp_path / "m.safetensors", ["one"])
    fresh = read_header(path)
    assert read_header(path) is not fresh, "it may be written to again, and its times would not tell"
    settled(path, monkeypatch)
    known = read_header(path)
    assert read_header(path) is known == fresh
    status = path.stat()
    tensor_file(path, ["two"])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [tensor.name for tensor in read_header(path).tensors] == ["two"], "same size, same time"
    path.unlink()
    with pytest.raises(Fault) as caught:
        read_header(path)
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND


def test_few_and_small_headers_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{index}.safetensors" for index in range(headers.MOST_KEPT + 1)]
    paths = [tensor_file(tmp_path / name, ["one"]) for name in names]
    settled(paths[-1], monkeypatch)
    first = [read_header(path) for path in paths]
    assert read_header(paths[0]) is not first[0] and read_header(paths[-1]) is first[-1]
    monkeypatch.setattr(headers, "MOST_KEPT_TENSORS", 1)
    large = tensor_file(tmp_path / "large.safetensors", ["one", "two"])
    settled(large, monkeypatch)
    assert read_header(large) is not read_header(large)
