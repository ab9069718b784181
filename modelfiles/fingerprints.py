"""What tells one state of a file from another without reading it.

Decides when a file counts as changed, so that what was checked is what is loaded. Knows nothing of formats.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from protocol.errors import ErrorCode, Fault
from protocol.records import Record


class Fingerprint(Record, frozen=True, kw_only=True):
    """A file or folder at one moment: size in bytes, modification time in nanoseconds, inode."""

    path: str
    size: int
    mtime_ns: int
    inode: int
    is_folder: bool = False

    @staticmethod
    def of(path: Path) -> Fingerprint:
        """The fingerprint of what lies at `path` now. Raises OSError when nothing does."""
        return Fingerprint.of_stat(path, path.stat())

    @staticmethod
    def of_stat(path: Path, status: os.stat_result) -> Fingerprint:
        """The fingerprint that `status` shows; the size of a folder is 0, as it says nothing."""
        is_folder = (status.st_mode & 0o170000) == 0o040000
        return Fingerprint(
            path=str(path),
            size=0 if is_folder else status.st_size,
            mtime_ns=status.st_mtime_ns,
            inode=status.st_ino,
            is_folder=is_folder,
        )

    def is_current(self) -> bool:
        """Whether the file still is as it was."""
        try:
            return Fingerprint.of(Path(self.path)) == self
        except OSError:
            return False


def verify(fingerprints: Iterable[Fingerprint]) -> None:
    """Raise Fault MODEL_CORRUPTED (retryable: look again) when one of the files is not as it was checked."""
    for fingerprint in fingerprints:
        if not fingerprint.is_current():
            name = Path(fingerprint.path).name
            raise Fault(
                ErrorCode.MODEL_CORRUPTED,
                f"{name} changed after it was checked",
                retryable=True,
                details={"file": name},
            )
