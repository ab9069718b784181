"""Whether what lies on disk is another model than the catalogue knows.

Decides what counts as a change: other content, or other words beside it. Times, inodes and links only say that a file
must be looked at; a mark, samples of all that a model's record rests on, says whether it holds what it held.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Generator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from catalog.entry import Entry
from catalog.hashing import checksum, mark
from catalog.notes import Notes
from modelfiles.fingerprints import Fingerprint
from modelfiles.folders import is_pipeline_folder
from modelfiles.model import Kind, ModelFile
from protocol.enums import HashDepth, ModelStatus

Names = Callable[[str], Collection[str]]
"""Lists a folder."""


def same_words(old: Notes, new: Notes) -> bool:
    """Whether what lies beside a model says the same, whatever its times."""
    return msgspec.structs.replace(old, marks=[]) == msgspec.structs.replace(new, marks=[])


def refreshed(entry: Entry, model: ModelFile, notes: Notes) -> Entry:
    """An entry whose file was inspected anew and is another: its mark and its checksum no longer hold."""
    return msgspec.structs.replace(
        entry,
        file=model,
        notes=notes,
        status=ModelStatus.Available,
        reason="",
        mark="",
        checksum="",
        hash_depth=HashDepth.NONE,
        updated_at=datetime.now(UTC),
    )


def is_unchanged(entry: Entry, names: Names) -> bool:
    """Whether every file and folder that the last inspection rests on is as it was; `names` lists a folder."""
    if entry.status is not ModelStatus.Available or not all(print_.is_current() for print_ in entry.file.fingerprints):
        return False
    model = entry.file
    if not entry.notes.is_current(model, names):
        return False
    if model.kind is not Kind.SINGLE:
        return True
    # A configuration folder may have come beside a single file since.
    folder, _, name = model.path.rpartition("/")
    stem = name.rpartition(".")[0]
    has_folder = stem in names(folder) and is_pipeline_folder(Path(folder) / stem)
    return bool(model.config_path) == has_folder


class Listings:
    """The names in a folder, listed once for a run of questions about it."""

    def __init__(self) -> None:
        self._folder = ""
        self._names: frozenset[str] = frozenset()

    def __call__(self, folder: str) -> frozenset[str]:
        if folder != self._folder:
            try:
                self._names = frozenset(os.listdir(folder))  # noqa: PTH208 - names alone are wanted
            except OSError:
                self._names = frozenset()
            self._folder = folder
        return self._names


def same_but_for_times(old: ModelFile, new: ModelFile) -> bool:
    """Whether two inspections found the same, whatever the times, inodes and links."""
    return _substance(old) == _substance(new)


def same_content(entry: Entry, model: ModelFile) -> Generator[None, None, bool]:
    """Whether a model's files hold what they held when its mark and its checksum were made; yields between reads.

    `model` is what was found now, `same_but_for_times`. Files that nobody read before could hold anything. Raises
    OSError.
    """
    if _states(entry.file) == _states(model):
        return True
    if not entry.mark or (yield from mark(model)) != entry.mark:
        return False
    return (yield from checksum(model, entry.hash_depth)) == entry.checksum


def _states(model: ModelFile) -> list[Fingerprint]:
    return [fingerprint for fingerprint in model.fingerprints if not fingerprint.is_folder]


def _substance(model: ModelFile) -> ModelFile:
    plain = [Fingerprint(path=print_.path, size=print_.size, mtime_ns=0, inode=0) for print_ in _states(model)]
    return msgspec.structs.replace(model, fingerprints=plain)
