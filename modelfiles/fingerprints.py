"""What tells one state of a file from another without reading it.

Decides when a file must be looked at again, and whether an open file is the one that was checked. Times, inodes and
links only say that something may have changed: what did is for `modelfiles.contents`. Knows nothing of formats.
"""

from __future__ import annotations

import os
from pathlib import Path

from protocol.errors import ErrorCode, Fault
from protocol.records import Record


class Fingerprint(Record, frozen=True, kw_only=True):
    """A file or folder at one moment: size in bytes, times of content and of status in nanoseconds, inode."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    ctime_ns: int = 0
    is_folder: bool = False

    @staticmethod
    def of(path: Path) -> Fingerprint:
        """The fingerprint of what lies at `path` now. Raises OSError when nothing does."""
        return Fingerprint.of_stat(path, path.stat())

    @staticmethod
    def of_stat(path: Path | str, status: os.stat_result) -> Fingerprint:
        """The fingerprint that `status` shows; the size of a folder is 0, as it says nothing."""
        is_folder = (status.st_mode & 0o170000) == 0o040000
        return Fingerprint(
            path=str(path),
            size=0 if is_folder else status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            ctime_ns=status.st_ctime_ns,
            is_folder=is_folder,
        )

    def is_current(self) -> bool:
        """Whether the file still is as it was."""
        try:
            return Fingerprint.of_stat(self.path, os.stat(self.path)) == self  # noqa: PTH116 - once for each file of a scan
        except OSError:
            return False

    def verify(self, status: os.stat_result) -> None:
        """Raise Fault MODEL_CORRUPTED (retryable: look again) when an open file is not the one that was checked.

        A link to it that was made or removed meanwhile, its mode and its owner are none of its content.
        """
        now = Fingerprint.of_stat(Path(self.path), status)
        if (now.size, now.mtime_ns, now.inode) != (self.size, self.mtime_ns, self.inode):
            name = Path(self.path).name
            raise Fault(
                ErrorCode.MODEL_CORRUPTED,
                f"{name} changed after it was checked",
                retryable=True,
                details={"file": name},
            )
