"""A safetensors file with another header: written beside the old one, then put in its place.

Decides that a reader finds the old file or the new one, whole, whenever this is killed, and that nobody waits: a thread
copies the bytes and brings them to the disk. What the header says is `catalog.header`'s.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path

from catalog.work import Steps
from modelfiles.fingerprints import Fingerprint
from modelfiles.headers import HEADER_LIMIT_BYTES, LENGTH_BYTES, MOST_TENSORS, header_of
from modelfiles.jsonfile import open_regular, parse_object
from protocol.errors import ErrorCode, Fault

CHUNK_BYTES = 8 << 20
BLOCK_BYTES = 4096
"""Where the data lies within a block stays as it was: a file system that can share blocks between files does."""

LOOK_SECONDS = 0.005
NO_TMPFILE = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL})
"""What a file system says that has no files without a name."""

NO_COPY = frozenset({errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP})
"""What a kernel or a file system says that cannot copy by itself."""

READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
Metadata = dict[str, str]


class Rewriting:
    """One file on its way to another header: `steps` to their end, then `place`; `close` in any case.

    `change` makes the new `__metadata__` of the old. Raises Fault throughout: MODEL_CORRUPTED, retryable, where the
    file is no longer the one of the fingerprint, NOT_SUPPORTED where its folder takes no files.
    """

    def __init__(self, fingerprint: Fingerprint, change: Callable[[Metadata], Metadata]) -> None:
        self._path = Path(fingerprint.path)
        self._source = open_regular(self._path)
        self._target = -1
        self._scratch: Path | None = None
        self._stopped, self._done, self._lock = threading.Event(), threading.Event(), threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        try:
            status = os.fstat(self._source)
            fingerprint.verify(status)
            self._found = Fingerprint.of_stat(self._path, status)
            self._begin, self._header = self._headers(change)
            self._open_target(stat.S_IMODE(status.st_mode))
        except BaseException:
            self._release()
            raise

    def _headers(self, change: Callable[[Metadata], Metadata]) -> tuple[int, bytes]:
        """Where the data lies now, and the header to come, padded so that it lies there again or whole blocks on."""
        begin = header_of(self._source, self._found, self._path.name).data_begin
        text = os.pread(self._source, begin - LENGTH_BYTES, LENGTH_BYTES)
        entries = parse_object(text, self._path.name, any_text=True, most_objects=MOST_TENSORS + 3)
        old = entries.pop("__metadata__", {})
        assert isinstance(old, dict)
        header = json.dumps({"__metadata__": change(old), **entries}, separators=(",", ":")).encode()
        room = begin - LENGTH_BYTES
        if len(header) > room:
            room += -(-(len(header) - room) // BLOCK_BYTES) * BLOCK_BYTES
        if room > HEADER_LIMIT_BYTES:
            reason = f"the header would have {room} bytes; the limit is {HEADER_LIMIT_BYTES}"
            raise Fault(ErrorCode.INVALID_ARGUMENT, f"write_header: {reason}", details={"field": "write_header"})
        return begin, header.ljust(room)

    def _open_target(self, mode: int) -> None:
        """A file without a name where the file system has such: what a kill leaves of it is gone at once."""
        folder = self._path.parent
        needed = LENGTH_BYTES + len(self._header) + self._found.size - self._begin
        try:
            free = free_bytes(folder)
            if free < needed:
                raise OSError(errno.ENOSPC, f"{needed} bytes are needed beside it, {free} are free")
            # What an earlier writing of this file left when it was killed.
            for left in folder.glob(f".{escape(self._path.name)}.*.rewriting"):
                left.unlink(missing_ok=True)
            try:
                self._target = os.open(folder, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode)
            except OSError as error:
                if error.errno not in NO_TMPFILE:
                    raise
                self._scratch = self._scratch_name()
                self._target = os.open(self._scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            os.fchmod(self._target, mode)
            with suppress(OSError):
                owner = os.fstat(self._source)
                os.fchown(self._target, owner.st_uid, owner.st_gid)
        except OSError as error:
            raise self._failed(error) from None

    def _scratch_name(self) -> Path:
        return self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}.rewriting")

    def _failed(self, error: OSError) -> Fault:
        reason = f"the header of {self._path.name} was not written: {error.strerror or error}"
        details = {"field": "write_header", "reason": error.strerror or str(error)}
        if error.errno in READ_ONLY:
            return Fault(ErrorCode.NOT_SUPPORTED, f"write_header: {reason}", details=details)
        return Fault(ErrorCode.INTERNAL_ERROR, reason, retryable=True, details=details)

    def steps(self) -> Steps:
        """Until the new file is whole and on disk, yielding every few milliseconds."""
        self._thread = threading.Thread(target=self._copy, name="rewriting", daemon=True)
        self._thread.start()
        while not self._done.wait(LOOK_SECONDS):
            yield
        if self._error is not None:
            raise self._failed(self._error)

    def _copy(self) -> None:
        try:
            _write(self._target, len(self._header).to_bytes(LENGTH_BYTES, "little") + self._header, 0)
            self._copy_data()
            os.fsync(self._target)
        except OSError as error:
            self._error = error
        finally:
            self._done.set()
            if self._stopped.is_set():
                self._release()

    def _copy_data(self) -> None:
        at, to, end = self._begin, LENGTH_BYTES + len(self._header), self._found.size
        by_kernel = True
        while at < end and not self._stopped.is_set():
            count = min(CHUNK_BYTES, end - at)
            try:
                if by_kernel:
                    done = os.copy_file_range(self._source, self._target, count, at, to)
                else:
                    data = os.pread(self._source, count, at)
                    _write(self._target, data, to)
                    done = len(data)
            except OSError as error:
                if not by_kernel or error.errno not in NO_COPY:
                    raise
                by_kernel = False
                continue
            if not done:
                raise OSError(errno.EIO, "it ended while it was read")
            at, to = at + done, to + done

    def place(self) -> None:
        """Put the new file in the old one's place, on disk when this returns."""
        status = os.fstat(self._source)
        self._found.verify(status)
        try:
            Fingerprint.of(self._path).verify(status)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if self._scratch is None:
                    self._scratch = self._scratch_name()
                    # With a folder given, this is linkat, which follows the link of /proc to the file without a name.
                    os.link(f"/proc/self/fd/{self._target}", self._scratch.name, dst_dir_fd=folder)
                self._scratch.replace(self._path)
                self._scratch = None
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise self._failed(error) from None

    def close(self) -> None:
        """Give up what is not placed. A thread that still writes lets go of its files itself."""
        self._stopped.set()
        if self._thread is None or self._done.is_set():
            self._release()

    def _release(self) -> None:
        with self._lock:
            for descriptor in (self._source, self._target):
                if descriptor >= 0:
                    os.close(descriptor)
            self._source = self._target = -1
            if self._scratch is not None:
                with suppress(OSError):
                    self._scratch.unlink(missing_ok=True)
                self._scratch = None


def free_bytes(folder: Path) -> int:
    """What this user may still write to a folder's file system."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(descriptor, view, offset)
        view, offset = view[done:], offset + done
