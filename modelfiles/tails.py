"""Files whose end was never written: a downloader took all their room at the start, and the header is whole.

Decides by content, since size and header say nothing: weights that end in a run of zeros, whole matrices of them, after
weights that are none. A file of nothing but zeros is somebody's test and no download.
"""

from __future__ import annotations

import os
from pathlib import Path

from modelfiles.headers import Header, Tensor
from modelfiles.jsonfile import corrupted, open_regular

LOOK_BYTES = 4 << 10
SAMPLE_BYTES = 512
FEWEST_MATRICES = 3
SMALLEST_SHARE = 32
"""Zeros to the end count from three whole matrices on, and from a thirty-second of the data: what a model may have
learned nothing in is smaller."""

LARGE_BYTES = 64 << 20
"""Within one matrix, so many count by themselves."""


def check_end(header: Header) -> None:
    """Raise Fault MODEL_CORRUPTED for a file, read before, whose data end in zeros that no model has."""
    path = Path(header.fingerprint.path)
    descriptor = open_regular(path)
    try:
        header.fingerprint.verify(os.fstat(descriptor))
        empty = _empty_bytes(descriptor, header)
    finally:
        os.close(descriptor)
    if empty:
        size = header.data_bytes
        raise corrupted(
            f"{path.name} is an unfinished download: its last {empty} of {size} bytes of data are zeros",
            data_bytes=size,
            empty_bytes=empty,
        )


def _empty_bytes(descriptor: int, header: Header) -> int:
    """How many bytes at the end were never written; 0 where there is no telling."""
    size = header.data_bytes
    if size < LOOK_BYTES or _is_written(descriptor, header.data_begin + size - LOOK_BYTES, LOOK_BYTES):
        return 0
    empty, matrices = 0, 0
    for tensor in reversed(header.tensors):
        if not _is_empty(descriptor, header, tensor):
            empty += _end_of(descriptor, header, tensor)
            break
        empty += tensor.bytes
        matrices += len(tensor.shape) > 1
    else:
        return 0
    is_large = matrices >= FEWEST_MATRICES and empty * SMALLEST_SHARE >= size
    return empty if is_large or empty >= LARGE_BYTES else 0


def _is_empty(descriptor: int, header: Header, tensor: Tensor) -> bool:
    """Whether a tensor is zeros where it is looked at: its beginning, its middle, its end."""
    spots = (tensor.begin, (tensor.begin + tensor.end) // 2, max(tensor.begin, tensor.end - SAMPLE_BYTES))
    return not any(
        _is_written(descriptor, header.data_begin + begin, min(SAMPLE_BYTES, tensor.end - begin)) for begin in spots
    )


def _end_of(descriptor: int, header: Header, tensor: Tensor) -> int:
    """Bytes of zeros that a tensor ends in, found by halving: all before them is taken to be written."""
    low, high = tensor.begin, tensor.end
    while high - low > LOOK_BYTES:
        middle = (low + high) // 2
        if _is_written(descriptor, header.data_begin + middle, min(LOOK_BYTES, high - middle)):
            low = middle
        else:
            high = middle
    return tensor.end - high


def _is_written(descriptor: int, begin: int, length: int) -> bool:
    return any(os.pread(descriptor, length, begin))
