"""How much of a file lies in the page cache. Reads nothing: asks the kernel with mincore(2)."""

from __future__ import annotations

import ctypes
import ctypes.util
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

_RESIDENT = bytes(byte & 1 for byte in range(256))
"""Of what `mincore` says of a page, the lowest bit; the others mean nothing."""

_MAP_FAILED = ctypes.c_void_p(-1).value


def ratio(paths: Sequence[Path]) -> float | None:
    """The share (0-1) of these files' pages that memory holds; None where the system cannot say."""
    counts = [_pages(path) for path in paths]
    known = [count for count in counts if count is not None]
    if not known or len(known) < len(counts):
        return None
    total = sum(pages for _, pages in known)
    return sum(resident for resident, _ in known) / total if total else None


def _pages(path: Path) -> tuple[int, int] | None:
    """(resident, all) pages of one file."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        size = os.fstat(descriptor).st_size
        return _mapped_pages(descriptor, size) if size else (0, 0)
    finally:
        os.close(descriptor)


def _mapped_pages(descriptor: int, size: int) -> tuple[int, int] | None:
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "mincore"):
        return None
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if address == _MAP_FAILED:
        return None
    try:
        pages = (size + mmap.PAGESIZE - 1) // mmap.PAGESIZE
        vector = ctypes.create_string_buffer(pages)
        if libc.mincore(address, size, vector) != 0:
            return None
        return vector.raw[:pages].translate(_RESIDENT).count(1), pages
    finally:
        libc.munmap(address, size)
