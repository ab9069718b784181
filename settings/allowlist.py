"""The allow-list as it stands on disk: which public keys are admitted, and what is wrong with those that are not.

Decides whom a keys folder admits. What others than this user and root may write admits nobody, as with sshd: the folder
all of its keys, a file its own. Nothing here blocks, whatever a `.pub` is.
"""

from __future__ import annotations

import enum
import os
import re
import stat
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from settings.file import ConfigError

SUFFIX = ".pub"
MOST_BYTES = 64 << 10
"""Of an entry; a real one has some hundred."""

OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
FRESH_NS = 2_000_000_000
"""A file system's clock is coarse: what changed just now may change again under the same time."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
Z85_KEY = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


class Role(enum.Enum):
    """What a key is admitted as: an admin is a client that may also use the admin lane."""

    CLIENT = "client"
    WORKER = "worker"
    ADMIN = "admin"


class PublicKey(Struct, frozen=True, kw_only=True):
    """An entry of the allow-list; `public` is Z85 text."""

    name: str
    role: Role
    public: str


class Admitted(Struct, frozen=True, kw_only=True):
    """The allow-list: keys by name; `doubtful` are those that would be admitted if nobody else could have written them;
    a text for each problem; `closed`: the folder itself admits nobody."""

    keys: list[PublicKey] = []
    doubtful: list[PublicKey] = []
    problems: list[str] = []
    closed: bool = False


class _Entry(Struct, frozen=True):
    """A file as it was read: `problem` says why it admits nobody, `key` is None where it holds none."""

    mark: tuple[int, ...]
    read_ns: int
    key: PublicKey | None = None
    problem: str = ""


class AllowList:
    """The allow-list of one keys folder. A file is read again when it has changed in any way."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[str, _Entry] = {}

    def read(self) -> Admitted:
        """Whom the folder admits now. A folder that is not there, cannot be read or may be written by others admits
        nobody; so do a file that cannot be read, and a key that stands in two, since its role would be chance."""
        try:
            problem = _writable(self.path, self.path.stat()) or _open_above(self.path)
            names = sorted(path.name for path in self.path.iterdir() if path.suffix == SUFFIX)
        except OSError as error:
            self._entries.clear()
            return Admitted(problems=[f"keys folder {self.path}: {error.strerror}"], closed=True)
        self._entries = {name: self._entry(name) for name in names}
        found = _without_doubles(self.path, list(self._entries.values()))
        if problem:
            return Admitted(doubtful=[*found.keys, *found.doubtful], problems=[problem, *found.problems], closed=True)
        return found

    def _entry(self, name: str) -> _Entry:
        path, now_ns = self.path / name, time.time_ns()
        try:
            mark = _mark(path.stat())
        except OSError as error:
            return _Entry((), now_ns, problem=f"{path}: {error.strerror}")
        known = self._entries.get(name)
        if known is not None and known.mark == mark and known.read_ns - max(mark[:2]) > FRESH_NS:
            return known
        try:
            return _Entry(mark, now_ns, *_read(path))
        except ConfigError as error:
            return _Entry(mark, now_ns, problem=str(error))


def read_entry(path: Path) -> PublicKey:
    """One entry. Raises ConfigError for what admits nobody, with the mode where that is why."""
    key, problem = _read(path)
    if problem:
        raise ConfigError(problem)
    return key


def _read(path: Path) -> tuple[PublicKey, str]:
    """An entry, and why it may be somebody else's doing. Raises ConfigError for what is no entry."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise ConfigError(f"{path} is no file")
            data = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise ConfigError(f"{path} has more than {MOST_BYTES} bytes: that is no public key")
    try:
        key = msgspec.json.decode(data, type=PublicKey)
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if key.name != path.stem or not NAME.fullmatch(key.name) or not Z85_KEY.fullmatch(key.public):
        raise ConfigError(f"{path} is no public key of '{path.stem}'")
    return key, _writable(path, found)


def refuse_loose(path: Path) -> None:
    """Raise ConfigError where others may write into a keys folder that is there."""
    try:
        problem = _writable(path, path.stat()) or _open_above(path)
    except OSError as error:
        raise ConfigError(f"keys folder {path}: {error.strerror}") from None
    if problem:
        raise ConfigError(problem)


def _without_doubles(folder: Path, entries: list[_Entry]) -> Admitted:
    by_public: dict[str, list[PublicKey]] = {}
    problems = [entry.problem for entry in entries if entry.problem]
    doubtful = [entry.key for entry in entries if entry.problem and entry.key is not None]
    for entry in entries:
        if entry.key is not None:
            by_public.setdefault(entry.key.public, []).append(entry.key)
    doubles = [" and ".join(key.name for key in keys) for keys in by_public.values() if len(keys) > 1]
    problems += [f"{folder}: {names} are the same key" for names in doubles]
    alone = [keys[0] for keys in by_public.values() if len(keys) == 1 and keys[0] not in doubtful]
    return Admitted(keys=sorted(alone, key=lambda key: key.name), doubtful=doubtful, problems=problems)


def _mark(found: os.stat_result) -> tuple[int, ...]:
    """What tells two states of a file apart; the times first."""
    return (
        found.st_mtime_ns,
        found.st_ctime_ns,
        found.st_size,
        found.st_ino,
        found.st_dev,
        found.st_mode,
        found.st_uid,
    )


def _writable(path: Path, found: os.stat_result) -> str:
    """Why a file or folder is not only this user's and root's to write; empty where it is."""
    mode = stat.S_IMODE(found.st_mode)
    if mode & OTHERS_WRITE:
        wanted = "0700" if stat.S_ISDIR(found.st_mode) else "0644"
        return f"{path} may be written by others (mode {mode:04o}): it admits nobody until it is {wanted}"
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to user {found.st_uid}, who may write it: it admits nobody until it is this user's"
    return ""


def _open_above(path: Path) -> str:
    """Why somebody else may put another folder in this one's place; empty where nobody may."""
    mode = stat.S_IMODE(path.parent.stat().st_mode)
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return f"{path.parent} may be written by everybody (mode {mode:04o}): the keys in it admit nobody"
    return ""
