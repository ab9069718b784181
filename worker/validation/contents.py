"""What lies in weight files: values that are no numbers, and digests. Read through descriptors, never mapped.

`file_sha256` is of the whole file, `auto_v2` its first ten digits, `tensor_sha256` of the data behind the header, which
stays the same where only metadata changed, `blake3` of the whole file where that package is there. Of samples the first
`SAMPLE_BYTES` of every tensor are looked at.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from blake3 import blake3

from modelfiles.headers import Header, Tensor
from modelfiles.jsonfile import open_regular
from protocol.records import Record
from worker.validation.digests import Digests

SAMPLE_BYTES = 4096
CHUNK_BYTES = 4 << 20
AUTO_V2_DIGITS = 10
MOST_NAMED = 20

MASKS = {
    "F64": (np.uint64, 0x7FF0000000000000, 0x000FFFFFFFFFFFFF),
    "F32": (np.uint32, 0x7F800000, 0x007FFFFF),
    "F16": (np.uint16, 0x7C00, 0x03FF),
    "BF16": (np.uint16, 0x7F80, 0x007F),
    "F8_E5M2": (np.uint8, 0x7C, 0x03),
}
"""Bits of exponent and mantissa: a value whose exponent is all ones is infinite, or with a mantissa no number."""

NAN_BYTES = {"F8_E4M3": 0x7F}
"""Types without infinities, and their one pattern that is no number, the sign apart."""


class NotFinite(Record, frozen=True, kw_only=True):
    """Tensors with values that are no numbers or infinite, the first of them by name, and how much was looked at."""

    tensors: int
    bytes: int
    whole: bool
    not_numbers: list[str]
    infinite: list[str]


def digests(header: Header, check: Callable[[], None], told: Callable[[int], None]) -> Digests:
    """Of a file with this header; `check` is asked and `told` hears of the bytes read between chunks.

    Raises Fault MODEL_CORRUPTED where the file is another now.
    """
    path = Path(header.fingerprint.path)
    whole, data, third = hashlib.sha256(), hashlib.sha256(), blake3()
    descriptor = open_regular(path)
    try:
        header.fingerprint.verify(os.fstat(descriptor))
        offset = 0
        while chunk := os.pread(descriptor, CHUNK_BYTES, offset):
            check()
            whole.update(chunk)
            third.update(chunk)
            data.update(memoryview(chunk)[max(0, header.data_begin - offset) :])
            offset += len(chunk)
            told(offset)
        header.fingerprint.verify(os.fstat(descriptor))
    finally:
        os.close(descriptor)
    first = whole.hexdigest()
    return Digests(
        file_sha256=first,
        auto_v2=first[:AUTO_V2_DIGITS],
        tensor_sha256=data.hexdigest(),
        blake3=third.hexdigest(),
    )


def not_finite(
    files: Sequence[tuple[Header, Iterable[Tensor]]], check: Callable[[], None], *, whole: bool
) -> NotFinite:
    """Values that are no numbers among these tensors of files: of samples, or of all. Raises Fault as `digests`."""
    bad: dict[str, None] = {}
    infinite: dict[str, None] = {}
    count = size = 0
    for header, tensors in files:
        descriptor = open_regular(Path(header.fingerprint.path))
        try:
            header.fingerprint.verify(os.fstat(descriptor))
            for tensor in tensors:
                if tensor.dtype not in MASKS and tensor.dtype not in NAN_BYTES:
                    continue
                count += 1
                end = tensor.end if whole else min(tensor.end, tensor.begin + SAMPLE_BYTES)
                for begin in range(tensor.begin, end, CHUNK_BYTES):
                    check()
                    values = os.pread(descriptor, min(CHUNK_BYTES, end - begin), header.data_begin + begin)
                    size += len(values)
                    no_number, infinity = _looked_at(values, tensor.dtype)
                    if no_number:
                        bad[tensor.name] = None
                    if infinity:
                        infinite[tensor.name] = None
        finally:
            os.close(descriptor)
    return NotFinite(
        tensors=count,
        bytes=size,
        whole=whole,
        not_numbers=list(bad)[:MOST_NAMED],
        infinite=list(infinite)[:MOST_NAMED],
    )


def _looked_at(values: bytes, dtype: str) -> tuple[bool, bool]:
    """Whether there is a value that is no number, and whether there is one that is infinite."""
    if dtype in NAN_BYTES:
        return bool(((np.frombuffer(values, np.uint8) & 0x7F) == NAN_BYTES[dtype]).any()), False
    kind, exponent, mantissa = MASKS[dtype]
    width = np.dtype(kind).itemsize
    bits = np.frombuffer(values[: len(values) // width * width], kind)
    special = bits[(bits & kind(exponent)) == kind(exponent)]
    if not special.size:
        return False, False
    fractions = special & kind(mantissa)
    return bool(fractions.any()), bool((fractions == 0).any())
