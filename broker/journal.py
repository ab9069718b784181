"""The journal: final replies and accepted commands on disk, so that a broker that was killed still knows them.

Records (`broker.records`) are appended to segments, in one write for all that a turn of the loop made, before its
replies are sent; answers of commands that only read may come a moment later, since reading again harms nobody. In
memory stands only where each final lies. A segment goes when all of it is older than ten minutes, or when the journal
is larger than its bound, the oldest first; accepted commands that are not done yet move on to the newest.

Ages follow elapsed time, whatever the day's clock does. A file that is damaged is copied aside and read as far as it
can be; a request id whose record cannot be read any more is still known, and is never executed again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from broker import records
from broker.core.finals import KEEP_BYTES, KEEP_SECONDS, Accepted, Final
from broker.records import Kind, Record, Scan
from protocol.actions import ACTIONS
from protocol.enums import Lane
from settings.damage import DAMAGED, kept_name, set_aside
from settings.logs import Logger

SEGMENT_BYTES = 64 << 20
SEGMENT_SECONDS = 60.0
UNWRITTEN_BYTES = 64 << 20
"""Records kept in memory where the disk takes none."""

RETRY_SECONDS = 1.0
"""How long a disk that took nothing is left alone."""

LAZY_SECONDS = 0.05
"""How long answers that were only read may wait to be written together."""

MOST_WAITING = 512

_READS = frozenset(action.name for action in ACTIONS.values() if action.lane is Lane.CATALOG and action.idempotent) - {
    "scan_models"
}
MOST_DAMAGED = 8

_encoder = msgspec.msgpack.Encoder()
_finals = msgspec.msgpack.Decoder(Final)
_accepted = msgspec.msgpack.Decoder(Accepted)
_log = Logger()


class _Segment:
    """One file of records; `written_at` is the time of its newest one, by the clock of this process.

    `shift` makes a time that stands in the file one of this clock.
    """

    def __init__(self, path: Path, now: float) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.descriptor).st_size
        self.began_at = self.written_at = now
        self.shift = 0.0
        self.request_ids: list[str] = []

    def close(self) -> None:
        os.close(self.descriptor)


class Journal:
    """A `Store` in a folder. `clock` is the core's; raises OSError where the folder cannot be used."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
        keep_seconds: float = KEEP_SECONDS,
        keep_bytes: int = KEEP_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        if folder.exists() and not folder.is_dir():
            _set_aside(folder, "the journal's folder is no folder")
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._clock = clock
        self._wall = wall
        self._keep_seconds, self._keep_bytes = keep_seconds, keep_bytes
        self._segment_bytes = min(segment_bytes, max(keep_bytes // 4, 1))
        self._segments: dict[int, _Segment] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._unfinished: dict[str, Accepted] = {}
        self._accepted_in: dict[str, int] = {}
        self._damaged: dict[str, int] = {}
        self._unwritten: list[Final | Accepted] = []
        self._fresh: dict[str, Final] = {}
        self._is_urgent = False
        self._written_at = self._retry_at = 0.0
        self._read()
        self._number = max(self._segments, default=0)
        self._roll()
        for accepted in self._unfinished.values():
            self.accept(accepted)

    # the store

    def keep(self, final: Final) -> None:
        """Remember a final reply; it ends what was accepted under its request id."""
        request_id = final.request_id
        if self._unfinished and self._unfinished.pop(request_id, None) is not None:
            del self._accepted_in[request_id]
        self._fresh[request_id] = final
        self._unwritten.append(final)
        if final.action not in _READS:
            self._is_urgent = True

    def accept(self, accepted: Accepted) -> None:
        """Remember a command until its final reply."""
        self._unfinished[accepted.request_id] = accepted
        self._accepted_in[accepted.request_id] = self._number
        self._unwritten.append(accepted)
        self._is_urgent = True

    def beginning(self, prefix: str) -> list[str]:
        """The request ids that begin so and whose final replies are kept. Looks at all of them."""
        known = (*self._fresh, *self._places)
        return [request_id for request_id in dict.fromkeys(known) if request_id.startswith(prefix)]

    def find(self, request_id: str) -> Final | None:
        """The final reply of a request id, None where there is none (any more)."""
        fresh = self._fresh.get(request_id)
        if fresh is not None:
            return fresh
        place = self._places.get(request_id)
        if place is None:
            return Final.damaged(request_id, self._clock()) if request_id in self._damaged else None
        number, offset = place
        segment = self._segments[number]
        body, written_at = records.read_body(segment.descriptor, offset)
        age = max(0.0, self._clock() - (written_at + segment.shift))
        if age >= self._keep_seconds:
            return None
        final = _decoded(body)
        if final is None:
            _log.error("a stored reply cannot be read", request_id=request_id, segment=segment.path.name)
            return Final.damaged(request_id, self._clock())
        return msgspec.structs.replace(final, at=self._clock() - age)

    def unfinished(self) -> list[Accepted]:
        """The commands that were accepted and have no final reply, in their order."""
        return list(self._unfinished.values())

    def expire(self, _: float) -> None:
        """Begin a new segment where it is time; forget segments that are too old or too much."""
        self.flush(all_of_it=True)
        now = self._clock()
        current = self._segments[self._number]
        if current.size and (now - current.began_at >= SEGMENT_SECONDS or current.size >= self._segment_bytes):
            self._roll()
        for number, segment in list(self._segments.items()):
            total = sum(one.size for one in self._segments.values())
            if number == self._number:
                break
            if now - segment.written_at < self._keep_seconds and total <= self._keep_bytes:
                break
            self._drop(number, segment)

    # writing

    def flush(self, *, all_of_it: bool = False) -> None:
        """Write what was kept and accepted since; a disk that takes nothing is logged, and memory serves instead.

        Answers that are only read, and read again as well, may wait a little for others.
        """
        if not self._unwritten:
            return
        now = self._clock()
        waits = not self._is_urgent and len(self._unwritten) < MOST_WAITING and now - self._written_at < LAZY_SECONDS
        if (waits and not all_of_it) or self._retry_at > now:
            return
        parts, places = self._records(now)
        segment = self._segments[self._number]
        data = b"".join(parts)
        try:
            written = os.write(segment.descriptor, data)
        except OSError as error:
            self._not_written(str(error))
            return
        if written < len(data):
            with contextlib.suppress(OSError):  # what stays of it is passed over when the file is read
                os.ftruncate(segment.descriptor, segment.size)
            segment.size = os.fstat(segment.descriptor).st_size
            self._not_written("the disk is full")
            return
        self._places.update(places)
        segment.request_ids += places
        segment.size += written
        segment.written_at = self._written_at = now
        self._forget_unwritten()
        if segment.size >= self._segment_bytes:
            self.expire(0.0)

    def close(self) -> None:
        """Write the rest and close the files."""
        self.flush(all_of_it=True)
        for segment in self._segments.values():
            segment.close()

    def _records(self, now: float) -> tuple[list[bytes], dict[str, tuple[int, int]]]:
        """The bytes of what is not written yet, in parts, and where its finals will lie."""
        number, offset = self._number, self._segments[self._number].size
        parts = [] if offset else [records.pack_anchor(self._now())]
        offset += sum(map(len, parts))
        places: dict[str, tuple[int, int]] = {}
        for record in self._unwritten:
            body = _encoder.encode(record)
            if isinstance(record, Final):
                places[record.request_id] = (number, offset)
            kind = Kind.FINAL if isinstance(record, Final) else Kind.ACCEPTED
            packed = records.pack(kind, record.request_id, body, now)
            parts += packed
            offset += sum(map(len, packed))
        return parts, places

    def _forget_unwritten(self) -> None:
        self._unwritten.clear()
        self._fresh.clear()
        self._is_urgent = False

    def _not_written(self, reason: str) -> None:
        """What was not written stays in memory, within a bound, and is tried again."""
        self._retry_at = self._clock() + RETRY_SECONDS
        _log.error("the journal cannot be written: a restart would forget these replies", reason=reason)
        if sum(final.size_bytes for final in self._fresh.values()) > UNWRITTEN_BYTES:
            self._forget_unwritten()
            for accepted in self._unfinished.values():
                self.accept(accepted)

    def _roll(self) -> None:
        """Begin a new segment; where there is no room for one, the old one goes on. Raises OSError for the first."""
        number = self._number + 1
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            segment = _Segment(self._path(number), self._clock())
        except OSError as error:
            if self._number not in self._segments:
                raise
            _log.error("a segment of the journal cannot be begun", reason=str(error))
            return
        self._number = number
        self._segments[number] = segment

    def _now(self) -> records.Anchor:
        return records.anchor(self._clock(), self._wall())

    def _drop(self, number: int, segment: _Segment) -> None:
        for request_id in segment.request_ids:
            if self._places.get(request_id, (0, 0))[0] == number:
                del self._places[request_id]
        for request_id in [name for name, place in self._damaged.items() if place == number]:
            del self._damaged[request_id]
        segment.close()
        with contextlib.suppress(OSError):
            segment.path.unlink(missing_ok=True)
        del self._segments[number]
        for request_id in [name for name, place in self._accepted_in.items() if place <= number]:
            del self._accepted_in[request_id]
            if request_id in self._unfinished:
                self.accept(self._unfinished[request_id])

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.journal"

    # reading

    def _read(self) -> None:
        """Find again what the last broker wrote; a file that cannot be read costs itself alone."""
        for path in sorted(self._folder.glob("*.journal")):
            if not path.stem.isdecimal():
                _set_aside(path, "it is no segment of the journal")
                continue
            try:
                self._read_segment(int(path.stem), path)
            except OSError as error:
                _set_aside(path, str(error))
        for old in sorted(self._folder.glob(f"*{DAMAGED}*"))[:-MOST_DAMAGED]:
            with contextlib.suppress(OSError):
                old.unlink()

    def _read_segment(self, number: int, path: Path) -> None:
        segment = _Segment(path, self._clock())
        scan = Scan(segment.descriptor)
        found = list(scan.records())
        written = records.read_anchor(found[0]) if found else None
        if written is None:
            segment.close()
            if segment.size:
                _set_aside(path, "it is empty, or of another version")
            else:
                path.unlink()
            return
        if scan.lost_bytes:
            _copy_aside(path, scan.lost_bytes)
        self._segments[number] = segment
        segment.shift = written.shift(self._now())
        segment.written_at = max(record.written_at for record in found) + segment.shift
        for record in found[1:]:
            self._recall(number, segment, record)

    def _recall(self, number: int, segment: _Segment, record: Record) -> None:
        """Take in one record of a former broker."""
        request_id = record.request_id
        if record.kind is Kind.FINAL:
            self._unfinished.pop(request_id, None)
            self._places[request_id] = (number, record.offset)
            segment.request_ids.append(request_id)
        elif record.kind is Kind.ACCEPTED:
            accepted = _decoded_accepted(record.body)
            if accepted is None:
                _log.error("an accepted command cannot be read: it is known, and never done", request_id=request_id)
                self._damaged[request_id] = number
                return
            age = max(0.0, self._clock() - (record.written_at + segment.shift)) + accepted.age_seconds
            self._unfinished[request_id] = msgspec.structs.replace(accepted, age_seconds=age)


def _decoded(body: bytes | None) -> Final | None:
    try:
        return None if body is None else _finals.decode(body)
    except (msgspec.DecodeError, ValueError):
        return None


def _decoded_accepted(body: bytes | None) -> Accepted | None:
    try:
        return None if body is None else _accepted.decode(body)
    except (msgspec.DecodeError, ValueError):
        return None


def _set_aside(path: Path, reason: str) -> None:
    try:
        kept_as = set_aside(path).name
    except OSError as error:
        kept_as = f"nothing: {error.strerror}"
    _log.error("a file of the journal is set aside: its replies are forgotten", kept_as=kept_as, reason=reason)


def _copy_aside(path: Path, lost_bytes: int) -> None:
    """Keep a damaged file as it was found; what of it can be read is."""
    kept = kept_name(path)
    text = "a segment of the journal is damaged: the records in these bytes are lost, those around them are known"
    _log.warning(text, segment=path.name, lost_bytes=lost_bytes, kept_as=kept.name)
    with contextlib.suppress(OSError):
        shutil.copyfile(path, kept)
