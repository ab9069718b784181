"""The catalogue's file: opened, brought to this version, or set aside and begun anew.

Decides what a file of another version or with damage means. A record that this version cannot read whole keeps its id,
its path, its revision and what clients wrote; what its file is, the next scan finds again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from catalog.entry import Entry
from catalog.written import Written
from modelfiles.model import Kind, ModelFile
from protocol.enums import ModelStatus, ModelType
from settings.damage import set_aside
from settings.logs import Logger

FILE_NAME = "catalog.sqlite3"
BESIDE = ("-wal", "-shm")
"""Endings of what SQLite keeps beside its file."""

MIGRATIONS = (
    """
CREATE TABLE models (id TEXT PRIMARY KEY, path TEXT NOT NULL, revision INTEGER NOT NULL, entry TEXT NOT NULL) STRICT;
CREATE INDEX models_path ON models (path);
CREATE TABLE usage (
    model_id TEXT NOT NULL, device_id TEXT NOT NULL, uses INTEGER NOT NULL,
    loads INTEGER NOT NULL, load_ms REAL NOT NULL, runs INTEGER NOT NULL, run_ms REAL NOT NULL,
    images INTEGER NOT NULL, peak_bytes INTEGER NOT NULL, first_used TEXT NOT NULL, last_used TEXT NOT NULL,
    PRIMARY KEY (model_id, device_id)
) STRICT, WITHOUT ROWID;
""",
    """
CREATE TABLE forgotten (
    path TEXT NOT NULL, model_id TEXT NOT NULL, revision INTEGER NOT NULL, PRIMARY KEY (path, model_id)
) STRICT, WITHOUT ROWID;
""",
)
"""What brings a file of version n, counted from 0 for an empty one, to version n + 1. Never changed, only added to."""

SCHEMA_VERSION = len(MIGRATIONS)
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

READ_ANEW = "its record is of another version: its file is read anew by the next scan"

T = TypeVar("T")

log = Logger()


def opened(folder: Path) -> tuple[sqlite3.Connection, list[Entry], Path | None]:
    """The database in a folder with every model in it; in memory where the folder can hold none.

    Beside them the name under which a file that cannot be read was kept.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        log.error("the catalogue's folder cannot be made: nothing outlives this process", reason=str(error))
        return *_prepared(":memory:"), None
    kept = None
    for _ in range(2):
        try:
            return *_prepared(str(path)), kept
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in UNUSABLE:
                log.error("the catalogue cannot be opened: nothing outlives this process", reason=str(error))
                break
            kept = _put_aside(path, str(error))
            if kept is None:
                break
    return *_prepared(":memory:"), None


def _prepared(name: str) -> tuple[sqlite3.Connection, list[Entry]]:
    """A database of this version. Raises sqlite3.DatabaseError for one that is damaged or of a later version."""
    db = sqlite3.connect(name, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        verify(db)
        _migrate(db)
        return db, list(entries_of(db))
    except BaseException:
        db.close()
        raise


def verify(db: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError for a file that is damaged or of a later version than this program's."""
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise sqlite3.DatabaseError(verdict)
    version = version_of(db)
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"it is of version {version}; this program reads up to {SCHEMA_VERSION}")


def version_of(db: sqlite3.Connection) -> int:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    return int(version)


def _migrate(db: sqlite3.Connection) -> None:
    """Bring a file to this version, in one transaction."""
    version = version_of(db)
    if version < SCHEMA_VERSION:
        steps = "".join(MIGRATIONS[version:])
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        if version:
            log.info("the catalogue is brought to another version", version=version, to=SCHEMA_VERSION)


def entries_of(db: sqlite3.Connection, *, backwards: bool = False) -> Iterator[Entry]:
    """Every model, the oldest record first, or last."""
    order = "DESC" if backwards else "ASC"
    rows = db.execute(f"SELECT id, path, revision, entry FROM models ORDER BY rowid {order}")
    for model_id, path, revision, text in rows:
        if not (isinstance(model_id, str) and isinstance(path, str) and isinstance(revision, int)):
            log.error("a record of no model: it is left out", record=f"{model_id!r} {path!r}")
            continue
        try:
            yield msgspec.json.decode(text, type=Entry)
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            log.error("a model's record cannot be read whole", model_id=model_id, reason=str(error), then=READ_ANEW)
            yield _salvaged(model_id, path, revision, text)


def _salvaged(model_id: str, path: str, revision: int, text: object) -> Entry:
    """What can still be read of a record."""
    try:
        found = msgspec.json.decode(text) if isinstance(text, str) else None
    except (msgspec.DecodeError, ValueError):
        found = None
    fields: dict[str, Any] = found if isinstance(found, dict) else {}
    now = datetime.now(UTC)
    # A model without fingerprints is unchanged by no scan.
    file = ModelFile(
        path=path, kind=Kind.SINGLE, type=ModelType.Unknown, size_bytes=0, tensor_bytes=0, parts=[], fingerprints=[]
    )
    return Entry(
        id=model_id,
        file=file,
        declared_type=_field(fields, "declared_type", ModelType, ModelType.Unknown),
        status=ModelStatus.Error,
        reason=READ_ANEW,
        written=_field(fields, "written", Written, Written()),
        revision=revision,
        added_at=_field(fields, "added_at", datetime, now),
        updated_at=now,
    )


def _field(fields: dict[str, Any], name: str, kind: type[T], default: T) -> T:
    try:
        return msgspec.convert(fields[name], kind)
    except (KeyError, msgspec.ValidationError, ValueError, TypeError):
        return default


def put_aside(path: Path) -> Path:
    """Keep a database under another name, with what belongs to it; that name. Raises OSError."""
    kept = set_aside(path)
    for ending in BESIDE:
        beside = path.with_name(path.name + ending)
        if beside.exists():
            beside.rename(kept.with_name(kept.name + ending))
    return kept


def _put_aside(path: Path, reason: str) -> Path | None:
    """As `put_aside`, logged; None where that could not be done."""
    text = (
        "the catalogue cannot be read: it is begun anew from what can be read of it, the sidecars and the model roots"
    )
    try:
        kept = put_aside(path)
    except OSError as error:
        log.error("the catalogue cannot be set aside", reason=str(error))
        return None
    log.error(text, reason=reason, kept_as=str(kept))
    return kept
