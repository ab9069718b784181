"""The durable half of the catalogue: SQLite, written through, read once at the start.

This is the one authority for what is on disk; `entries` is its copy in memory and never differs from it after
`commit`. Model changes are on disk when `commit` returns (WAL, synchronous FULL); usage totals at the next commit.

A database that cannot be read, or is of another version, is set aside and begun anew: models are found again beneath
the roots. A disk that takes nothing costs durability, not the service: memory serves, and every commit tries again.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import msgspec

from catalog.entry import Entry
from catalog.usage import Totals
from settings.damage import set_aside
from settings.logs import Logger

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
PUT_MODEL = "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)"
ADD_USAGE = """
INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (model_id, device_id) DO UPDATE SET
    uses = uses + excluded.uses, loads = loads + excluded.loads, load_ms = load_ms + excluded.load_ms,
    runs = runs + excluded.runs, run_ms = run_ms + excluded.run_ms, images = images + excluded.images,
    peak_bytes = max(peak_bytes, excluded.peak_bytes),
    first_used = min(first_used, excluded.first_used), last_used = max(last_used, excluded.last_used)
"""
COLUMNS = Totals.__struct_fields__
UNUSABLE = frozenset(
    {
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
    }
)
"""Errors of the place, not of the file: another file would fare no better."""

RETRY_SECONDS = 5.0

log = Logger()


class Store:
    """Models and usage totals. Belongs to one thread."""

    def __init__(self, folder: Path) -> None:
        self._touched: dict[str, None] = {}
        self._unsaved: dict[str, Entry] = {}
        self._unsaved_usage: list[list[object]] = []
        self._retry_at = 0.0
        self._reason = ""
        self._db, read = _open(folder)
        self._entries = {entry.id: entry for entry in read}
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

    def take_touched(self) -> list[Entry]:
        """The models that were put since the last call, all of them at first."""
        touched, self._touched = self._touched, {}
        return [self._entries[model_id] for model_id in touched]

    def ids_of(self, path: str) -> list[str]:
        """The ids of the model at a path, oldest first."""
        return self._by_path.get(path, [])

    def put(self, entry: Entry, *, is_change: bool = True) -> Entry:
        """Add or replace a model, under the next revision when it `is_change`; durable after `commit`."""
        known = self._entries.get(entry.id)
        revision = (known.revision if known else 0) + is_change
        entry = msgspec.structs.replace(entry, revision=revision)
        self._unsaved[entry.id] = entry
        self._entries[entry.id] = entry
        self._touched[entry.id] = None
        if known is None:
            self._by_path.setdefault(entry.file.path, []).append(entry.id)
        return entry

    def write(self, entry: Entry) -> Entry:
        """Replace a model under its next revision, on disk when this returns. Raises OSError, with nothing changed."""
        known = self._entries[entry.id]
        entry = msgspec.structs.replace(entry, revision=known.revision + 1)
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.execute(PUT_MODEL, _row(entry))
        except sqlite3.Error as error:
            raise OSError(str(error)) from None
        self._unsaved.pop(entry.id, None)
        self._entries[entry.id] = entry
        self._touched[entry.id] = None
        return entry

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


def _open(folder: Path) -> tuple[sqlite3.Connection, list[Entry]]:
    """The database in a folder with all that is in it; in memory where the folder can hold none."""
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.error("the catalogue's folder cannot be made: nothing outlives this process", reason=str(error))
        return _prepared(":memory:")
    for _ in range(2):
        try:
            return _prepared(str(path))
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in UNUSABLE:
                log.error("the catalogue cannot be opened: nothing outlives this process", reason=str(error))
                break
            if not _set_aside(path, str(error)):
                break
    return _prepared(":memory:")


def _prepared(name: str) -> tuple[sqlite3.Connection, list[Entry]]:
    """A database of this version. Raises sqlite3.DatabaseError for one that is damaged or of another version."""
    db = sqlite3.connect(name, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise sqlite3.DatabaseError(f"it is of version {version}; this program reads {SCHEMA_VERSION}")
        return db, _entries(db)
    except BaseException:
        db.close()
        raise


def _entries(db: sqlite3.Connection) -> list[Entry]:
    """Every model; one whose record cannot be read is found again by the next scan."""
    found = []
    for model_id, text in db.execute("SELECT id, entry FROM models ORDER BY rowid"):
        try:
            found.append(msgspec.json.decode(text, type=Entry))
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            log.error("a model's record cannot be read: it is scanned anew", model_id=str(model_id), reason=str(error))
    return found


def _set_aside(path: Path, reason: str) -> bool:
    """Keep a database that cannot be read, with what belongs to it; whether that could be done."""
    text = "the catalogue cannot be read: it is begun anew from the model roots; what clients wrote is in the file kept"
    try:
        kept = set_aside(path)
        for ending in ("-wal", "-shm"):
            beside = path.with_name(path.name + ending)
            if beside.exists():
                beside.rename(kept.with_name(kept.name + ending))
    except OSError as error:
        log.error("the catalogue cannot be set aside", reason=str(error))
        return False
    log.error(text, reason=reason, kept_as=str(kept))
    return True
