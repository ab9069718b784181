"""The header of a safetensors file, parsed and checked against the file's own size.

Decides whether the tensors lie in the file as the format demands (https://github.com/huggingface/safetensors#format):
8 bytes of length, a JSON object, then data that the tensors cover exactly, without gap or overlap. Knows no families.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from modelfiles.fingerprints import Fingerprint
from modelfiles.jsonfile import corrupted, open_regular, parse_object
from modelfiles.strangers import PREFIX_BYTES, stranger
from modelfiles.text import cleaned, is_text
from protocol.records import Record

LENGTH_BYTES = 8
HEADER_LIMIT_BYTES = 100_000_000
MAX_NUMBER = 1 << 62
MOST_TENSORS = 100_000
MOST_DIMENSIONS = 32
MOST_METADATA, LONGEST_KEY, LONGEST_METADATA = 1000, 256, 64 << 10
"""Entries, and characters of a key and of a text, that are kept of a file's metadata. What is longer, such as a preview
picture or a trainer's word counts, is left in the file."""

SETTLED_NS = 2_000_000_000
"""A file that was written to since may be written to again without its times telling."""

MOST_KEPT, MOST_KEPT_TENSORS = 16, 5_000

LONGEST_NAME = 1024
"""Characters of a tensor's name."""

DTYPE_BITS = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E5M2FNUZ": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}
"""Bits of one element of each type."""


class Tensor(Record, frozen=True, kw_only=True):
    """One tensor: `begin` and `end` are offsets from `Header.data_begin`, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def bytes(self) -> int:
        return self.end - self.begin


class Header(Record, frozen=True, kw_only=True):
    """A whole header: tensors by offset; `data_begin` is where offset 0 lies in the file."""

    tensors: tuple[Tensor, ...]
    metadata: dict[str, str]
    data_begin: int
    data_bytes: int
    fingerprint: Fingerprint


class _Newest:
    """The headers that were read last, of files that have been as they are for long enough to be told from another.

    One command asks for a header several times. Small ones alone are kept: what a stranger's file costs is bounded.
    """

    def __init__(self) -> None:
        self._headers: OrderedDict[Fingerprint, Header] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, fingerprint: Fingerprint) -> Header | None:
        with self._lock:
            return self._headers.get(fingerprint)

    def keep(self, header: Header) -> None:
        written_ns = max(header.fingerprint.mtime_ns, header.fingerprint.ctime_ns)
        if time.time_ns() - written_ns < SETTLED_NS or len(header.tensors) > MOST_KEPT_TENSORS:
            return
        with self._lock:
            self._headers[header.fingerprint] = header
            while len(self._headers) > MOST_KEPT:
                self._headers.popitem(last=False)


_newest = _Newest()


def dtype_bytes(tensors: Iterable[Tensor]) -> dict[str, int]:
    """Bytes of data by type."""
    sums: dict[str, int] = {}
    for tensor in tensors:
        sums[tensor.dtype] = sums.get(tensor.dtype, 0) + tensor.bytes
    return sums


def read_header(path: Path) -> Header:
    """The checked header of the file at `path`.

    Raises Fault MODEL_CORRUPTED with the numbers, MODEL_NOT_FOUND when nothing is there.
    """
    descriptor = open_regular(path)
    try:
        fingerprint = Fingerprint.of_stat(path, os.fstat(descriptor))
        known = _newest.get(fingerprint)
        if known is None:
            known = header_of(descriptor, fingerprint, path.name)
            _newest.keep(known)
        return known
    finally:
        os.close(descriptor)


def header_of(descriptor: int, fingerprint: Fingerprint, what: str) -> Header:
    """The checked header of an open file. Raises Fault MODEL_CORRUPTED, UNSAFE_MODEL for a pickle by another name."""
    prefix = os.pread(descriptor, PREFIX_BYTES, 0)
    other = stranger(prefix, what)
    if other is not None:
        raise other
    header_bytes = _header_length(prefix[:LENGTH_BYTES], fingerprint.size, what)
    text = os.pread(descriptor, header_bytes, LENGTH_BYTES)
    if len(text) != header_bytes:
        raise corrupted(f"{what} ends inside its header", header_bytes=header_bytes, read_bytes=len(text))
    return parse_header(text, fingerprint, what)


def _header_length(prefix: bytes, file_bytes: int, what: str) -> int:
    if len(prefix) < LENGTH_BYTES:
        raise corrupted(
            f"{what} has {file_bytes} bytes: too short for a safetensors file", file_bytes=file_bytes, at_least_bytes=10
        )
    length = int.from_bytes(prefix, "little")
    if length > HEADER_LIMIT_BYTES:
        raise corrupted(
            f"{what} claims a header of {length} bytes; the limit is {HEADER_LIMIT_BYTES}",
            header_bytes=length,
            limit_bytes=HEADER_LIMIT_BYTES,
        )
    if LENGTH_BYTES + length > file_bytes:
        raise corrupted(
            f"{what} claims a header of {length} bytes but has only {file_bytes - LENGTH_BYTES} after the length",
            header_bytes=length,
            file_bytes=file_bytes,
        )
    return length


def parse_header(text: bytes, fingerprint: Fingerprint, what: str) -> Header:
    """The header that `text` holds, for a file of `fingerprint.size` bytes. Raises Fault MODEL_CORRUPTED."""
    if not text.startswith(b"{"):
        raise corrupted(f"the header of {what} does not begin with '{{'")
    # Besides the tensors: the header itself, its metadata, and one tensor too many, which is told by its number.
    entries = parse_object(text, f"the header of {what}", any_text=True, most_objects=MOST_TENSORS + 3)
    metadata = _metadata(entries.pop("__metadata__", {}), what)
    if len(entries) > MOST_TENSORS:
        raise corrupted(f"{what} has {len(entries)} tensors; the limit is {MOST_TENSORS}", limit=MOST_TENSORS)
    tensors = sorted((_tensor(name, entry, what) for name, entry in entries.items()), key=lambda t: (t.begin, t.end))
    data_begin = LENGTH_BYTES + len(text)
    data_bytes = fingerprint.size - data_begin
    _check_coverage(tensors, data_bytes, what)
    return Header(
        tensors=tuple(tensors),
        metadata=metadata,
        data_begin=data_begin,
        data_bytes=data_bytes,
        fingerprint=fingerprint,
    )


def _metadata(value: object, what: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise corrupted(f"__metadata__ of {what} is not a map of text to text")
    kept = {key: text for key, text in value.items() if len(key) <= LONGEST_KEY and len(text) <= LONGEST_METADATA}
    return {cleaned(key): cleaned(text) for key, text in islice(kept.items(), MOST_METADATA)}


def _tensor(name: str, entry: object, what: str) -> Tensor:
    where = f"tensor {name[:120]!a} of {what}"
    if not is_text(name):
        raise corrupted(f"{where} has a name that is no Unicode")
    if len(name) > LONGEST_NAME:
        raise corrupted(f"{where} has a name of {len(name)} characters; the limit is {LONGEST_NAME}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise corrupted(f"{where} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise corrupted(f"{where} has the unknown dtype {str(dtype)[:40]!r}")
    if isinstance(shape, list) and len(shape) > MOST_DIMENSIONS:
        raise corrupted(f"{where} has {len(shape)} dimensions; the limit is {MOST_DIMENSIONS}", limit=MOST_DIMENSIONS)
    if not _are_sizes(shape):
        raise corrupted(f"{where} has a shape that is not a list of sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise corrupted(f"{where} has the data_offsets {str(offsets)[:80]}: expected [begin, end], 0 <= begin <= end")
    begin, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (end - begin):
        raise corrupted(
            f"{where} needs {_bytes_of(bits)} bytes for {dtype} {shape[:16]} but its offsets span {end - begin}",
            needed_bytes=min(-(-bits // 8), MAX_NUMBER),
            offset_bytes=end - begin,
        )
    return Tensor(name=name, dtype=dtype, shape=tuple(shape), begin=begin, end=end)


def _bytes_of(bits: int) -> str:
    """Bits as bytes, rounded up, in words where they are beyond any file."""
    needed = -(-bits // 8)
    return str(needed) if needed < MAX_NUMBER else f"more than {MAX_NUMBER}"


def _are_sizes(value: object) -> bool:
    """Whether `value` is a list of non-negative integers (JSON true is none) that fit 62 bits."""
    return isinstance(value, list) and all(type(size) is int and 0 <= size < MAX_NUMBER for size in value)


def _check_coverage(tensors: list[Tensor], data_bytes: int, what: str) -> None:
    end = 0
    for tensor in tensors:
        if tensor.begin != end:
            kind = "overlaps the tensor before it" if tensor.begin < end else "leaves a gap before it"
            raise corrupted(
                f"tensor {tensor.name[:120]!r} of {what} begins at {tensor.begin}, expected {end}: it {kind}",
                begin=tensor.begin,
                expected=end,
            )
        end = tensor.end
    if end != data_bytes:
        state = "is truncated" if end > data_bytes else "has bytes that no tensor owns"
        raise corrupted(
            f"{what} {state}: the tensors end at {end}, the data at {data_bytes}",
            tensor_bytes=end,
            data_bytes=data_bytes,
        )
