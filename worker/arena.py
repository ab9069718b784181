"""Memory of our own for the weights of one part: a single block, aligned views into it, given back with the last view.

What the C library frees it may keep; a block that the system mapped goes back to the system whole.
"""

from __future__ import annotations

import math
import mmap

import torch

ALIGNMENT_BYTES = 64


class Arena:
    """A private block, handed out from its beginning. Every tensor keeps the whole of it."""

    def __init__(self, size_bytes: int) -> None:
        self._size = size_bytes
        self._map = mmap.mmap(-1, max(size_bytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._used = 0

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The next tensor, of zeros."""
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        made = torch.frombuffer(self._map, dtype=dtype, count=count, offset=self._used)
        self._used += aligned(count * dtype.itemsize)
        return made.view(shape)

    def whole(self) -> torch.Tensor:
        """All of its bytes, whatever tensors lie there."""
        if not self._size:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._map, dtype=torch.uint8, count=self._size)


def aligned(size_bytes: int) -> int:
    """The room that a tensor takes in a block."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
