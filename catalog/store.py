"""The durable half of the catalogue: SQLite, written through, read once at the start.

This is the one authority for what is on disk; `entries` is its copy in memory and never differs from it after
`commit`. Model changes are on disk when `commit` returns (WAL, synchronous FULL); usage totals at the next commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from catalog.entry import Entry
from catalog.usage import Totals

FILE_NAME = "catalog.sqlite3"
SCHEMA_VERSION = 1
SCHEMA = """
CREATE TABLE models (id TEXT PRIMARY KEY, path TEXT NOT NULL, revision INTEGER NOT NULL, entry TEXT NOT NULL) STRICT;
CREATE INDEX models_path ON models (path);
CREATE TABLE usage (
    model_id TEXT NOT NULL, device_id TEXT NOT NULL, uses INTEGER NOT NULL,
    loads INTEGER NOT NULL, load_ms REAL NOT NULL, runs INTEGER NOT NULL, run_ms REAL NOT NULL,
    images INTEGER NOT NULL, peak_bytes INTEGER NOT NULL, first_used TEXT NOT NULL, last_used TEXT NOT NULL,
    PRIMARY KEY (model_id, device_id)
) STRICT, WITHOUT ROWID;
"""
ADD_USAGE = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (model_id, device_id) DO UPDATE SET
    uses = uses + excluded.uses, loads = loads + excluded.loads, load_ms = load_ms + excluded.load_ms,
    runs = runs + excluded.runs, run_ms = run_ms + excluded.run_ms, images = images + excluded.images,
    peak_bytes = max(peak_bytes, excluded.peak_bytes),
    first_used = min(first_used, excluded.first_used), last_used = max(last_used, excluded.last_used)
"""
COLUMNS = Totals.__struct_fields__


class Store:
    """Models and usage totals. Belongs to one thread."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(folder / FILE_NAME, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._prepare()
        self._entries = {entry.id: entry for entry in self._read()}
        self._by_path: dict[str, list[str]] = {}
        for entry in self._entries.values():
            self._by_path.setdefault(entry.file.path, []).append(entry.id)

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Every model by id."""
        return self._entries

    def ids_of(self, path: str) -> list[str]:
        """The ids of the model at a path, oldest first."""
        return self._by_path.get(path, [])

    def put(self, entry: Entry, *, is_change: bool = True) -> Entry:
        """Add or replace a model, under the next revision when it `is_change`; durable after `commit`."""
        known = self._entries.get(entry.id)
        revision = (known.revision if known else 0) + is_change
        entry = msgspec.structs.replace(entry, revision=revision)
        self._begin()
        self._db.execute(
            "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)",
            (entry.id, entry.file.path, entry.revision, msgspec.json.encode(entry).decode()),
        )
        self._entries[entry.id] = entry
        if known is None:
            self._by_path.setdefault(entry.file.path, []).append(entry.id)
        return entry

    def add_usage(self, totals: Totals) -> None:
        """Add to the totals of one model on one device."""
        self._begin()
        values = [getattr(totals, column) for column in COLUMNS]
        self._db.execute(ADD_USAGE, [v.isoformat() if isinstance(v, datetime) else v for v in values])

    def usage(self, model_ids: Iterable[str] | None = None) -> dict[str, list[Totals]]:
        """The totals of the models asked for, or of all, by model id."""
        if model_ids is None:
            rows = self._db.execute("SELECT * FROM usage ORDER BY model_id, device_id").fetchall()
        else:
            rows = [
                row
                for model_id in model_ids
                for row in self._db.execute("SELECT * FROM usage WHERE model_id = ? ORDER BY device_id", (model_id,))
            ]
        found: dict[str, list[Totals]] = {}
        for row in rows:
            totals = msgspec.convert(dict(zip(COLUMNS, row, strict=True)), Totals)
            found.setdefault(totals.model_id, []).append(totals)
        return found

    def commit(self) -> None:
        """Make every change so far durable."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def close(self) -> None:
        """Commit and close."""
        self.commit()
        self._db.close()

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _prepare(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise RuntimeError(f"the catalogue has schema {version}; this program reads {SCHEMA_VERSION}")

    def _read(self) -> list[Entry]:
        rows = self._db.execute("SELECT entry FROM models ORDER BY rowid").fetchall()
        return [msgspec.json.decode(text, type=Entry) for (text,) in rows]
