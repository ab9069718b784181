"""The durable half of the catalogue: SQLite, written through, read once at the start.

This is the one authority for what is on disk; `entries` is its copy in memory and never differs from it after
`commit`. Model changes are on disk when `commit` returns (WAL, synchronous FULL); usage totals at the next commit.

A disk that takes nothing costs durability, not the service: memory serves, and every commit tries again. What a file of
another version or with damage means is `catalog.database`'s.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path, PurePath

import msgspec

from catalog.database import opened
from catalog.entry import Entry
from catalog.ids import id_from
from catalog.usage import Totals
from settings.logs import Logger

PUT_MODEL = "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)"
PUT_FORGOTTEN = "INSERT OR REPLACE INTO forgotten VALUES (?, ?, ?)"
ADD_USAGE = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (model_id, device_id) DO UPDATE SET
    uses = uses + excluded.uses, loads = loads + excluded.loads, load_ms = load_ms + excluded.load_ms,
    runs = runs + excluded.runs, run_ms = run_ms + excluded.run_ms, images = images + excluded.images,
    peak_bytes = max(peak_bytes, excluded.peak_bytes),
    first_used = min(first_used, excluded.first_used), last_used = max(last_used, excluded.last_used)
"""
COLUMNS = Totals.__struct_fields__
RETRY_SECONDS = 5.0

log = Logger()


class Store:
    """Models and usage totals. Belongs to one thread. `kept_aside` is a file that could not be read and was kept."""

    def __init__(self, folder: Path) -> None:
        self._touched: dict[str, None] = {}
        self._unsaved: dict[str, Entry] = {}
        self._unsaved_usage: list[list[object]] = []
        self._retry_at = 0.0
        self._reason = ""
        self._db, read, self.kept_aside = opened(folder)
        self._entries = {entry.id: entry for entry in read}
        forgotten = self._db.execute("SELECT path, model_id, revision FROM forgotten").fetchall()
        self._left_out: dict[str, str] = {path: model_id for path, model_id, _ in forgotten}
        self._last_revisions: dict[str, int] = {model_id: revision for _, model_id, revision in forgotten}
        self._by_path: dict[str, list[str]] = {}
        self._touched |= dict.fromkeys(self._entries)
        for entry in self._entries.values():
            self._by_path.setdefault(entry.file.path, []).append(entry.id)

    @property
    def is_durable(self) -> bool:
        """Whether what is committed outlives this process."""
        return bool(self._db.execute("PRAGMA database_list").fetchone()[2])

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every model by id."""
        return self._entries

    def take_touched(self, most: int | None = None) -> tuple[list[Entry], list[str]]:
        """The models that changed since the last call, all of them at first, and the ids of those that are gone.

        Up to `most` of them; what is left is for the next call.
        """
        touched = list(islice(self._touched, most))
        for model_id in touched:
            del self._touched[model_id]
        there = [self._entries[model_id] for model_id in touched if model_id in self._entries]
        return there, [model_id for model_id in touched if model_id not in self._entries]

    def ids_of(self, path: str) -> list[str]:
        """The ids of the model at a path, oldest first."""
        return self._by_path.get(path, [])

    def put(self, entry: Entry, *, is_change: bool = True) -> Entry:
        """Add or replace a model, under the next revision when it `is_change`; durable after `commit`."""
        known = self._entries.get(entry.id)
        revision = known.revision if known else max(self._last_revisions.get(entry.id, 0), entry.revision)
        entry = msgspec.structs.replace(entry, revision=revision + is_change)
        self._unsaved[entry.id] = entry
        self._entries[entry.id] = entry
        if is_change:
            self._touched[entry.id] = None
        if known is None:
            self._by_path.setdefault(entry.file.path, []).append(entry.id)
        return entry

    def free_id(self, relative: PurePath, root: Path, wished: str = "") -> str:
        """An id for a model without one: that which its path had before, else the one wished for, else one made of it.

        An id that another path had is not given again.
        """
        had = self._left_out.get(str(root / relative), "")
        if had and had not in self._entries:
            return had
        return wished if wished and not self._is_taken(wished) else id_from(relative, root.name, self._is_taken)

    def _is_taken(self, model_id: str) -> bool:
        return model_id in self._entries or model_id in self._last_revisions

    def is_left_out(self, path: str) -> bool:
        """Whether a client took the model at a path out of the catalogue, and none is known there."""
        return path in self._left_out and not self._by_path.get(path)

    def write(self, entry: Entry) -> Entry:
        """Replace a model under its next revision, on disk when this returns. Raises OSError, with nothing changed."""
        known = self._entries[entry.id]
        entry = msgspec.structs.replace(entry, revision=known.revision + 1)
        self._at_once((PUT_MODEL, _row(entry)))
        self._unsaved.pop(entry.id, None)
        self._entries[entry.id] = entry
        self._touched[entry.id] = None
        return entry

    def forget(self, model_id: str) -> None:
        """Drop a model and its usage, and leave its path out, on disk when this returns. Raises OSError, all unchanged.

        An id that comes back goes on from its last revision: nobody takes the new model for the old one.
        """
        entry = self._entries[model_id]
        path = entry.file.path
        self._at_once(
            ("DELETE FROM models WHERE id = ?", (model_id,)),
            ("DELETE FROM usage WHERE model_id = ?", (model_id,)),
            (PUT_FORGOTTEN, (path, model_id, entry.revision)),
        )
        del self._entries[model_id]
        self._unsaved.pop(model_id, None)
        self._unsaved_usage = [row for row in self._unsaved_usage if row[0] != model_id]
        self._by_path[path].remove(model_id)
        self._left_out[path] = model_id
        self._last_revisions[model_id] = entry.revision
        self._touched[model_id] = None

    def leave_out(self, path: str, model_id: str, revision: int) -> None:
        """Have scans pass a path over, whose model of this id was at that revision. Raises OSError, all unchanged."""
        self._at_once((PUT_FORGOTTEN, (path, model_id, revision)))
        self._left_out[path] = model_id
        self._last_revisions[model_id] = max(revision, self._last_revisions.get(model_id, 0))

    def _at_once(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """One transaction, on disk when this returns. Raises OSError, with nothing changed."""
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                for statement, values in statements:
                    self._db.execute(statement, values)
        except sqlite3.Error as error:
            raise OSError(str(error)) from None

    def add_usage(self, totals: Totals) -> None:
        """Add to the totals of one model on one device."""
        values = [getattr(totals, column) for column in COLUMNS]
        self._unsaved_usage.append([v.isoformat() if isinstance(v, datetime) else v for v in values])

    def usage(self, model_ids: Iterable[str] | None = None) -> dict[str, list[Totals]]:
        """The totals of the models asked for, or of all, by model id."""
        if self._unsaved_usage:
            self.commit()
        found: dict[str, list[Totals]] = {}
        for row in self._usage_rows(model_ids):
            try:
                totals = msgspec.convert(dict(zip(COLUMNS, row, strict=True)), Totals)
            except msgspec.ValidationError as error:
                log.error("a record of usage cannot be read: it is left out", record=str(row[:2]), reason=str(error))
                continue
            found.setdefault(totals.model_id, []).append(totals)
        return found

    def _usage_rows(self, model_ids: Iterable[str] | None) -> list[tuple[object, ...]]:
        try:
            if model_ids is None:
                return self._db.execute("SELECT * FROM usage ORDER BY model_id, device_id").fetchall()
            return [
                row
                for model_id in model_ids
                for row in self._db.execute("SELECT * FROM usage WHERE model_id = ? ORDER BY device_id", (model_id,))
            ]
        except sqlite3.Error as error:
            log.error("usage cannot be read", reason=str(error))
            return []

    def commit(self) -> str:
        """Make every change so far durable; "" once they are, else why they are not: they are tried again then."""
        if not (self._unsaved or self._unsaved_usage) or time.monotonic() < self._retry_at:
            return self._reason
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(PUT_MODEL, map(_row, self._unsaved.values()))
                self._db.executemany(ADD_USAGE, self._unsaved_usage)
        except sqlite3.Error as error:
            self._reason = str(error)
            self._retry_at = time.monotonic() + RETRY_SECONDS
            log.error("the catalogue cannot be written: a restart would forget its last changes", reason=self._reason)
            return self._reason
        self._unsaved.clear()
        self._unsaved_usage.clear()
        self._reason = ""
        return ""

    def close(self) -> None:
        """Commit and close."""
        self._retry_at = 0.0
        self.commit()
        self._db.close()


def _row(entry: Entry) -> tuple[str, str, int, str]:
    return entry.id, entry.file.path, entry.revision, msgspec.json.encode(entry).decode()
