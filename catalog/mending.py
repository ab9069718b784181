"""The catalogue's file looked at and made anew, by an operator at the command line.

Decides what is wrong with a file, and what of it goes into the next one: every record that can be read at all, with its
id, what clients wrote, its uses, and what was unregistered. What each model is, its file says again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from urllib.parse import quote

import msgspec

from catalog.database import FILE_NAME, READ_ANEW, SCHEMA_VERSION, entries_of, put_aside, version_of
from catalog.newcomers import Newcomers
from catalog.scan import Scan
from catalog.sidecar import Sidecars
from catalog.store import COLUMNS, Store
from catalog.usage import Totals
from catalog.work import done
from modelfiles.paths import Roots
from protocol.enums import HashDepth, ModelStatus
from protocol.records import Record
from protocol.replies import RejectedFile
from settings.damage import DAMAGED
from settings.logs import Logger

MOST_PROBLEMS = 50
FORGETS = 2
"""The version from which a catalogue knows what was unregistered."""

T = TypeVar("T")

log = Logger()


class Health(Record, frozen=True, kw_only=True):
    """What was found: counts of records by the status of their file, and every problem in words."""

    path: str
    version: int
    models: int
    statuses: dict[str, int]
    used: int
    unregistered: int
    set_aside: list[str]
    problems: list[str]

    @property
    def is_sound(self) -> bool:
        return not self.problems


class Rebuilt(Record, frozen=True, kw_only=True):
    """What a rebuilding made: ids kept, new and missing; files refused; the name that the old file has now."""

    kept: int
    added: list[str]
    missing: list[str]
    rejected: list[RejectedFile]
    kept_as: str


def check(folder: Path) -> Health:
    """Look at the catalogue in a data folder, changing nothing. Raises OSError where there is none to be read."""
    path = folder / FILE_NAME
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no catalogue")
    aside = sorted(str(other) for other in folder.glob(f"{FILE_NAME}{DAMAGED}*"))
    found = Health(
        path=str(path), version=0, models=0, statuses={}, used=0, unregistered=0, set_aside=aside, problems=[]
    )
    try:
        with closing(_reading(path)) as db:
            return _looked_at(db, found)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        return msgspec.structs.replace(found, problems=[f"it cannot be read: {error}"])


def _looked_at(db: sqlite3.Connection, found: Health) -> Health:
    problems = [row[0] for row in db.execute(f"PRAGMA integrity_check({MOST_PROBLEMS})") if row[0] != "ok"]
    version = version_of(db)
    if version > SCHEMA_VERSION:
        problems.append(f"it is of version {version}; this program reads up to {SCHEMA_VERSION}")
    statuses: dict[str, int] = {}
    known = set()
    for entry in entries_of(db):
        known.add(entry.id)
        statuses[entry.status.value] = statuses.get(entry.status.value, 0) + 1
        if entry.reason == READ_ANEW:
            problems.append(f"{entry.id}: {READ_ANEW}")
    used = {row[0] for row in db.execute("SELECT DISTINCT model_id FROM usage")}
    problems += [f"{model_id} was used and has no record" for model_id in sorted(used - known)]
    return msgspec.structs.replace(
        found,
        version=version,
        models=len(known),
        statuses=statuses,
        used=len(used),
        unregistered=len(_forgotten(db)),
        problems=problems[:MOST_PROBLEMS],
    )


def opened_store(folder: Path) -> Store:
    """The store of a data folder; of a file that had to be set aside, it has what can be read."""
    store = Store(folder)
    if store.kept_aside is not None:
        try:
            _carry_over(store.kept_aside, store)
        except (sqlite3.Error, OSError) as error:
            log.error("nothing of the old catalogue can be read", reason=str(error))
    return store


def rebuild(folder: Path, roots: Roots) -> Rebuilt:
    """Make the catalogue anew from what can be read of the old one and from the roots. Nobody else may have it open.

    The new one is made beside the old and then put in its place. Raises OSError, the old one as it was.
    """
    path = folder / FILE_NAME
    with TemporaryDirectory(dir=folder, prefix=".rebuilding-") as beside:
        store = Store(Path(beside))
        try:
            if not store.is_durable:
                raise OSError(f"{folder} takes no catalogue")
            count = _carry_over(path, store) if path.exists() else 0
            entry_of = Newcomers(store, roots, Sidecars(folder / "sidecars", roots)).entry_of
            scan = Scan(store, roots, roots.folders, HashDepth.NONE, entry_of)
            done(scan.steps())
            unsaved = store.commit()
            if unsaved:
                raise OSError(unsaved)
        finally:
            store.close()
        kept = put_aside(path) if path.exists() else None
        (Path(beside) / FILE_NAME).rename(path)
    outcome = scan.outcome
    return Rebuilt(
        kept=count,
        added=outcome.added,
        missing=outcome.missing,
        rejected=outcome.rejected,
        kept_as=str(kept) if kept else "",
    )


def _carry_over(old: Path, store: Store) -> int:
    """Everything of an old file that can be read, into a new one; how many models."""
    count = 0
    with closing(_reading(old)) as db:
        for path, model_id, revision in _readable(lambda backwards: iter(_forgotten(db, backwards))):
            store.leave_out(path, model_id, revision)
        for entry in _readable(lambda backwards: entries_of(db, backwards=backwards)):
            if entry.id in store.entries:
                continue
            # Without fingerprints and Available no more, each is looked at anew by the scan that follows.
            file = msgspec.structs.replace(entry.file, fingerprints=[])
            status = ModelStatus.Missing if entry.status is ModelStatus.Missing else ModelStatus.Error
            store.put(
                msgspec.structs.replace(
                    entry, file=file, status=status, mark="", checksum="", hash_depth=HashDepth.NONE
                )
            )
            count += 1
        used = {(totals.model_id, totals.device_id): totals for totals in _readable(partial(_used, db))}
        for totals in used.values():
            store.add_usage(totals)
    return count


def _readable(rows: Callable[[bool], Iterator[T]]) -> Iterator[T]:
    """Rows of a file that may be damaged: from the beginning as far as they go, then from the end. Some come twice."""
    for backwards in (False, True):
        try:
            yield from rows(backwards)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            log.warning("a part of the old catalogue cannot be read", reason=str(error))
        else:
            return


def _reading(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)


def _forgotten(db: sqlite3.Connection, backwards: bool = False) -> list[tuple[str, str, int]]:
    if version_of(db) < FORGETS:
        return []
    order = "DESC" if backwards else "ASC"
    return db.execute(f"SELECT path, model_id, revision FROM forgotten ORDER BY path {order}").fetchall()


def _used(db: sqlite3.Connection, backwards: bool) -> Iterator[Totals]:
    order = "DESC" if backwards else "ASC"
    for row in db.execute(f"SELECT {', '.join(COLUMNS)} FROM usage ORDER BY model_id {order}"):
        with suppress(msgspec.ValidationError, ValueError):
            yield msgspec.convert(dict(zip(COLUMNS, row, strict=True)), Totals)
