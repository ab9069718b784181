"""Blocks of memory for contents of a RAM tier: written once, then sealed; read into memory of the reader's own.

A block is a memory file without a name. It is written and read by calls, never mapped: where the system has no page
left that is an error here and not the end of a process, and what is in the tier weighs on no process's resident memory.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from types import TracebackType

MOST_NAME = 200
"""Bytes of a memory file's name, which Linux bounds at 249."""


class Block:
    """A memory file of `size` bytes; closed with the context, or by `close`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.size = os.fstat(descriptor).st_size

    @staticmethod
    def make(name: str, size_bytes: int) -> Block:
        """A new one, of zeros. Raises OSError where the system refuses memory files."""
        if not hasattr(os, "memfd_create"):
            raise OSError(errno.ENOSYS, "this system has no memory files")
        descriptor = os.memfd_create(name[:MOST_NAME], os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, size_bytes)
            return Block(descriptor)
        except BaseException:
            os.close(descriptor)
            raise

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Raises OSError: ENOSPC or ENOMEM where no memory is left, EPERM once it is sealed."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += os.pwrite(self.descriptor, view[done:], offset + done)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Raises OSError where the block ends before that."""
        data = os.pread(self.descriptor, size_bytes, offset)
        if len(data) != size_bytes:
            raise OSError(errno.EIO, f"{size_bytes} bytes at {offset} are past a block of {self.size}")
        return data

    def seal(self) -> None:
        """Nobody writes to it, or cuts it, any more. Raises OSError."""
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, seals)

    @property
    def sealed(self) -> bool:
        """Whether it is as `seal` leaves it; False for what is no memory file."""
        try:
            found = fcntl.fcntl(self.descriptor, fcntl.F_GET_SEALS)
        except OSError:
            return False
        wanted = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        return found & wanted == wanted

    def again(self) -> Block:
        """The same memory behind a descriptor of its own. Raises OSError where no descriptor is left."""
        return Block(fcntl.fcntl(self.descriptor, fcntl.F_DUPFD_CLOEXEC, 0))

    def close(self) -> None:
        """Give the descriptor back; the memory goes with the last one."""
        if self.descriptor >= 0:
            descriptor, self.descriptor = self.descriptor, -1
            with contextlib.suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Block:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()
