"""Memory of our own for the weights of one part: a single block, aligned views into it, given back with the last view.

What the C library frees it may keep; a block that the system mapped goes back to the system whole. For a while, and up
to a limit, blocks are kept for the next arena instead: pages that a process has already cost it nothing, and new ones
more than the copy into them.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import threading
import time
import weakref
from collections.abc import Callable

import torch

from settings import host

ALIGNMENT_BYTES = 64
KEPT_SECONDS = 10.0
"""For so long memory that nothing uses waits for the next arena."""


class Kept:
    """Blocks of memory that nothing uses at the moment. Any thread may call."""

    def __init__(
        self,
        limit_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
        available: Callable[[], int] = host.available_bytes,
    ) -> None:
        self.limit_bytes = limit_bytes
        self._clock = clock
        self._available = available
        self._lock = threading.RLock()
        self._blocks: list[mmap.mmap] = []
        self._last = 0.0

    @property
    def bytes(self) -> int:
        with self._lock:
            return sum(map(len, self._blocks))

    def take(self, size_bytes: int) -> mmap.mmap:
        """A block of this size: the one that is nearest to it, else a new one. What is in it is anything."""
        with self._lock:
            nearest = min(self._blocks, key=lambda block: abs(len(block) - size_bytes), default=None)
            if nearest is not None:
                self._blocks.remove(nearest)
        if nearest is not None:
            try:
                if len(nearest) != size_bytes:
                    nearest.resize(size_bytes)
                return nearest
            except (OSError, ValueError, BufferError, SystemError):
                # It goes back to the system; a new one will do.
                del nearest
        return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def give(self, block: mmap.mmap) -> None:
        """Nothing uses a block any more: it is kept where it is within the limit, and others do not lack memory."""
        with self._lock:
            self._last = self._clock()
            if self.bytes + len(block) <= self.limit_bytes <= self._available():
                self._blocks.append(block)

    def expire(self) -> None:
        """Give back what has waited for long enough, and everything where others lack memory."""
        with self._lock:
            overdue = self._clock() - self._last >= KEPT_SECONDS
            if self._blocks and (overdue or self._available() < self.limit_bytes):
                self.clear()

    def clear(self) -> None:
        """Give everything back."""
        with self._lock:
            self._blocks.clear()


KEPT = Kept()
"""This process's; whoever owns the device sets its limit."""


class Arena:
    """A private block, handed out from its beginning. Every tensor keeps the whole of it."""

    def __init__(self, size_bytes: int, kept: Kept = KEPT) -> None:
        self._size = size_bytes
        block = kept.take(max(size_bytes, 1))
        self._memory = (ctypes.c_ubyte * len(block)).from_buffer(block)
        weakref.finalize(self._memory, kept.give, block).atexit = False
        self._used = 0

    def tensor(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """The next tensor; what is in it is to be written."""
        count = math.prod(shape)
        if not count:
            return torch.empty(shape, dtype=dtype)
        made = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=self._used)
        self._used += aligned(count * dtype.itemsize)
        return made.view(shape)

    def whole(self) -> torch.Tensor:
        """All of its bytes, whatever tensors lie there."""
        if not self._size:
            return torch.empty(0, dtype=torch.uint8)
        return torch.frombuffer(self._memory, dtype=torch.uint8, count=self._size)


def aligned(size_bytes: int) -> int:
    """The room that a tensor takes in a block."""
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
