"""A scan: what lies beneath the roots against what the catalogue knows.

Decides what counts as added, updated, missing and rejected. Works in small steps, so that its caller stays alive
between them; each step leaves the catalogue consistent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from catalog.changes import Listings, Names, is_unchanged, refreshed, same_but_for_times, same_content, same_words
from catalog.discover import discover, rejected, unreadable
from catalog.entry import Entry
from catalog.hashing import checksum
from catalog.notes import notes_of
from catalog.store import Store
from catalog.work import Steps
from modelfiles.folders import has_weights
from modelfiles.model import ModelFile, inspect
from modelfiles.paths import Roots
from modelfiles.text import shown
from protocol.enums import HashDepth, ModelStatus
from protocol.errors import ErrorCode, Fault
from protocol.records import Record
from protocol.replies import RejectedFile
from settings.logs import Logger

log = Logger()

DEPTHS = {HashDepth.NONE: 0, HashDepth.FAST: 1, HashDepth.FULL: 2}


class Outcome(Record, frozen=True, kw_only=True):
    """What a scan changed: ids and refused files; `changed` are all ids whose entry is another now, hashes included."""

    added: list[str]
    updated: list[str]
    missing: list[str]
    rejected: list[RejectedFile]
    changed: list[str]


class Scan:
    """One scan in progress: iterate `steps` until it `is_done`, then read `outcome`. `entry_of` makes a new entry."""

    def __init__(
        self,
        store: Store,
        roots: Roots,
        folders: Iterable[Path],
        depth: HashDepth,
        entry_of: Callable[[ModelFile, Names], Entry],
    ) -> None:
        self._store, self._roots, self._depth, self._entry_of = store, roots, depth, entry_of
        self.folders = list(folders)
        self.is_done = False
        self._names = Listings()
        self._added: list[str] = []
        self._updated: list[str] = []
        self._missing: list[str] = []
        self._rejected: dict[str, RejectedFile] = {}
        self._changed: dict[str, None] = {}

    @property
    def outcome(self) -> Outcome:
        """What changed so far."""
        return Outcome(
            added=sorted(self._added),
            updated=sorted(self._updated),
            missing=sorted(self._missing),
            rejected=sorted(self._rejected.values(), key=lambda item: item.path),
            changed=list(self._changed),
        )

    def steps(self) -> Steps:
        """Do the scan, yielding after every few milliseconds of work."""
        known = [entry.file.path for entry in self._store.entries.values() if self._covers(Path(entry.file.path))]
        seen: set[Path] = set()
        visited: set[str] = set()
        for folder in self.folders:
            for found in discover(folder, self._roots, seen):
                if isinstance(found, RejectedFile):
                    self._rejected[found.path] = found
                elif found is not None and str(found) not in visited:
                    visited.add(str(found))
                    yield from self._look_at(found)
                yield
        for path in dict.fromkeys(known):
            if path not in visited:
                yield from self._look_at(Path(path))
            yield
        self._store.commit()
        self.is_done = True

    def _covers(self, path: Path) -> bool:
        # What no configured root contains any more is out of reach wherever the scan looks.
        return any(path.is_relative_to(folder) for folder in self.folders) or not self._roots.contains(path)

    def _look_at(self, path: Path) -> Steps:
        """Bring what lies at a path up to date; whatever goes wrong with it is its own trouble."""
        try:
            yield from self._examine(path)
        except Exception as error:
            if not isinstance(error, OSError):
                log.exception("a file could not be examined", path=shown(path))
            self._refuse(path, self._entries_of(path), unreadable(path, error))

    def _entries_of(self, path: Path) -> list[Entry]:
        return [self._store.entries[model_id] for model_id in self._store.ids_of(str(path))]

    def _examine(self, path: Path) -> Steps:
        entries = self._entries_of(path)
        if not entries and self._store.is_left_out(str(path)):
            return
        if entries and self._roots.contains(path) and all(is_unchanged(entry, self._names) for entry in entries):
            for entry in entries:
                yield from self._deepen(entry)
            return
        try:
            if not self._roots.contains(path) or not path.exists() or (path.is_dir() and not has_weights(path)):
                self._mark_missing(entries)
                return
            model = inspect(path, self._roots)
        except Fault as fault:
            self._refuse(path, entries, fault)
            return
        if not entries:
            yield from self._deepen(self._add(model))
        for entry in entries:
            same = entry.status is ModelStatus.Available and same_but_for_times(entry.file, model)
            if same:
                same = yield from same_content(entry, model)
            yield from self._deepen(self._bring_up(entry, model, same=same))

    def _add(self, model: ModelFile) -> Entry:
        entry = self._put(self._entry_of(model, self._names))
        self._added.append(entry.id)
        return entry

    def _bring_up(self, entry: Entry, model: ModelFile, *, same: bool) -> Entry:
        """Bring an entry up to date with its file, and with what lies beside it."""
        notes = notes_of(model, self._roots, self._names)
        if same and same_words(notes, entry.notes):
            # Only times moved: nothing that a client sees, so no new revision.
            return self._store.put(msgspec.structs.replace(entry, file=model, notes=notes), is_change=False)
        self._updated.append(entry.id)
        if same:
            now = datetime.now(UTC)
            return self._put(msgspec.structs.replace(entry, file=model, notes=notes, updated_at=now))
        return self._put(refreshed(entry, model, notes))

    def _mark_missing(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.status is not ModelStatus.Missing:
                self._missing.append(entry.id)
                self._put(_with_status(entry, ModelStatus.Missing, "the file is gone"))

    def _refuse(self, path: Path, entries: list[Entry], fault: Fault) -> None:
        if fault.code is ErrorCode.MODEL_NOT_FOUND:
            self._mark_missing(entries)
            return
        self._rejected[shown(path)] = rejected(path, fault)
        status = ModelStatus.Corrupted if fault.code is ErrorCode.MODEL_CORRUPTED else ModelStatus.Error
        for entry in entries:
            if (entry.status, entry.reason) != (status, fault.info.message):
                self._updated.append(entry.id)
                self._put(_with_status(entry, status, fault.info.message))

    def _deepen(self, entry: Entry) -> Steps:
        """Hash a model that was not hashed this deep."""
        if DEPTHS[entry.hash_depth] >= DEPTHS[self._depth]:
            return
        digest = yield from checksum(entry.file, self._depth)
        current = self._store.entries[entry.id]
        if current.file == entry.file:
            self._put(
                msgspec.structs.replace(current, checksum=digest, hash_depth=self._depth, updated_at=datetime.now(UTC))
            )

    def _put(self, entry: Entry) -> Entry:
        self._changed[entry.id] = None
        return self._store.put(entry)


def _with_status(entry: Entry, status: ModelStatus, reason: str) -> Entry:
    return msgspec.structs.replace(entry, status=status, reason=reason, updated_at=datetime.now(UTC))
