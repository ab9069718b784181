"""The runtime folder while a service runs: this user's alone, held by one supervisor, and put right when a cleaner went
through it.

Decides whether a folder can be used at all, and what in it has to be made again. The lock is on the folder itself:
files in it may be removed by who tidies up temporary folders, a folder that is locked is not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from settings import endpoints
from settings.config import Settings
from settings.endpoints import Endpoints
from settings.file import ConfigError
from settings.logs import Logger

LONGEST_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes."""

SOCKET_NAME = "workers.sock"
LINK_PREFIX = "vrb-"
OTHERS_MAY_WRITE = stat.S_IWOTH

_log = Logger()


class RuntimeFolder:
    """The folder, its lock, `endpoints.json` and the place of the worker link, whose address is `link`."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.runtime
        self._data = settings.data
        self._locked: int | None = None
        self._endpoints: Endpoints | None = None
        self._short: Path | None = None
        self.link = settings.workers

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make the folders where they are missing, and hold the lock. Raises ConfigError."""
        _make(self._path, "runtime")
        self._locked = _lock(self._path)
        try:
            self._make_data()
            if not self.link:
                self.link = f"ipc://{self._link_path()}"
            yield
        finally:
            self._clear()

    def announce(self, written: Endpoints) -> None:
        """Say where the broker is; where the disk takes nothing now, `repair` tries again."""
        self._endpoints = written
        self._write()

    def repair(self) -> bool:
        """Make again what somebody removed. Whether the link has to be bound anew."""
        if self._locked is None:
            return False
        self._repair_folder(self._locked)
        if self._endpoints is not None and not (self._path / endpoints.FILE_NAME).exists():
            self._write()
        return self._link_is_gone()

    def _make_data(self) -> None:
        with _refused("data", self._data):
            self._data.mkdir(parents=True, exist_ok=True)

    def _link_path(self) -> Path:
        path = self._path / SOCKET_NAME
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            with _refused("runtime", self._path):
                self._short = Path(tempfile.mkdtemp(prefix=LINK_PREFIX))
            path = self._short / SOCKET_NAME
        return path

    def _write(self) -> None:
        if self._endpoints is None:
            return
        try:
            endpoints.write(self._path, self._endpoints)
        except OSError as error:
            _log.error("endpoints.json cannot be written: it is tried again", reason=str(error))

    def _repair_folder(self, locked: int) -> None:
        """A folder that was removed is made again and locked; nobody else can have taken it over meanwhile unseen."""
        if _is_same(self._path, locked):
            return
        try:
            _make(self._path, "runtime")
            self._locked = _lock(self._path)
            self._make_data()
        except ConfigError as error:
            _log.error("the runtime folder is gone and cannot be had again", reason=str(error))
            return
        os.close(locked)
        _log.warning("the runtime folder was removed: it is made again", folder=str(self._path))

    def _link_is_gone(self) -> bool:
        if self._endpoints is None or not self.link.startswith("ipc://"):
            return False
        path = Path(self.link.removeprefix("ipc://"))
        if path.exists():
            return False
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
        _log.warning("the worker link's socket was removed: it is bound again", path=str(path))
        return True

    def _clear(self) -> None:
        """Leave nothing behind that leads somebody to a service that is no more."""
        with contextlib.suppress(OSError):
            (self._path / SOCKET_NAME).unlink(missing_ok=True)
            if self._endpoints is not None:
                (self._path / endpoints.FILE_NAME).unlink()
        if self._short is not None:
            with contextlib.suppress(OSError):
                (self._short / SOCKET_NAME).unlink(missing_ok=True)
                self._short.rmdir()
        if self._locked is not None:
            os.close(self._locked)


@contextlib.contextmanager
def _refused(name: str, folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(f"{name} folder {folder}: {error.strerror}") from None


def _make(folder: Path, name: str) -> None:
    """The folder, closed to others. Raises ConfigError for one that is not this user's alone: it is left as it is."""
    with _refused(name, folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = folder.stat()
        owner = _stranger(folder, status)
        if owner is not None:
            raise ConfigError(f"{name} folder {folder} belongs to {owner}: name one that is this user's alone")
        if status.st_mode & OTHERS_MAY_WRITE:
            raise ConfigError(f"{name} folder {folder} is open to everybody: name one that is this user's alone")
        if status.st_mode & 0o077:
            folder.chmod(0o700)


def _stranger(folder: Path, status: os.stat_result) -> str | None:
    """Another user who owns the folder or something in it."""
    me = os.getuid()
    if status.st_uid != me:
        return f"the user {status.st_uid}"
    for entry in folder.iterdir():
        owner = entry.lstat().st_uid
        if owner != me:
            return f"others too ({entry.name!a:.80} is the user {owner}'s)"
    return None


@contextlib.contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Hold the runtime folder while no service runs there, and keep one from being started. Raises ConfigError."""
    _make(settings.runtime, "runtime")
    locked = _lock(settings.runtime)
    try:
        yield
    finally:
        os.close(locked)


def _lock(folder: Path) -> int:
    """An open descriptor of the folder that holds its lock. Raises ConfigError where another supervisor does."""
    with _refused("runtime", folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"runtime folder {folder} is in use by another broker") from None
    return descriptor


def _is_same(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except OSError:
        return False
