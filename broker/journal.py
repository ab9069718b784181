"""The journal: final replies and accepted commands on disk, so that a broker that was killed still knows them.

Records are appended to segments, in one write for all that a turn of the loop made, before its replies are sent;
answers of commands that only read may come a moment later, since reading again harms nobody. In memory stands only
where each final lies. A segment goes when all of it is older than ten minutes, or when the journal
is larger than its bound, the oldest first; accepted commands that are not done yet move on to the newest.

A record is `[length][CRC-32 of the body][time][kind][length of the id][id][body]`, the body in MessagePack. A record
that a crash cut short ends its segment: nothing after it was ever promised.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from broker.core.finals import KEEP_BYTES, KEEP_SECONDS, Accepted, Final
from protocol.actions import ACTIONS
from protocol.enums import Lane
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
_HEAD = struct.Struct("<IIdBH")
_FINAL, _ACCEPTED = 1, 2

_encoder = msgspec.msgpack.Encoder()
_finals = msgspec.msgpack.Decoder(Final)
_accepted = msgspec.msgpack.Decoder(Accepted)
_log = Logger()


class _Segment:
    """One file of records; `written_at` is the time of its newest one, in seconds of the day's clock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = os.fstat(self.descriptor).st_size
        self.began_at = self.written_at = time.time()
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
        keep_bytes: int = KEEP_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._clock = clock
        self._wall = wall
        self._keep_bytes = keep_bytes
        self._segment_bytes = min(segment_bytes, max(keep_bytes // 4, 1))
        self._segments: dict[int, _Segment] = {}
        self._places: dict[str, tuple[int, int]] = {}
        self._unfinished: dict[str, Accepted] = {}
        self._accepted_in: dict[str, int] = {}
        self._unwritten: list[Final | Accepted] = []
        self._fresh: dict[str, Final] = {}
        self._is_urgent = False
        self._written_at = self._retry_at = 0.0
        self._read()
        self._number = max(self._segments, default=0) + 1
        self._segments[self._number] = _Segment(self._path(self._number))
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

    def find(self, request_id: str) -> Final | None:
        """The final reply of a request id, None where there is none (any more)."""
        fresh = self._fresh.get(request_id)
        if fresh is not None:
            return fresh
        place = self._places.get(request_id)
        if place is None:
            return None
        number, offset = place
        final = _read_final(self._segments[number].descriptor, offset)
        if final is None:
            _log.error("a stored reply cannot be read", request_id=request_id, segment=number)
            return None
        body, written_at = final
        age = self._wall() - written_at
        if age >= KEEP_SECONDS:
            return None
        return msgspec.structs.replace(body, at=self._clock() - age)

    def unfinished(self) -> list[Accepted]:
        """The commands that were accepted and have no final reply, in their order."""
        return list(self._unfinished.values())

    def expire(self, now: float) -> None:
        """Begin a new segment where it is time; forget segments that are too old or too much."""
        self.flush(all_of_it=True)
        wall = self._wall()
        current = self._segments[self._number]
        if current.size and (wall - current.began_at >= SEGMENT_SECONDS or current.size >= self._segment_bytes):
            self._roll()
        for number, segment in list(self._segments.items()):
            total = sum(one.size for one in self._segments.values())
            if number == self._number:
                break
            if wall - segment.written_at < KEEP_SECONDS and total <= self._keep_bytes:
                break
            self._drop(number, segment)

    # writing

    def flush(self, *, all_of_it: bool = False) -> None:
        """Write what was kept and accepted since; a disk that takes nothing is logged, and memory serves instead.

        Answers that are only read, and read again as well, may wait a little for others.
        """
        if not self._unwritten:
            return
        now = self._wall()
        waits = not self._is_urgent and len(self._unwritten) < MOST_WAITING and now - self._written_at < LAZY_SECONDS
        if (waits and not all_of_it) or self._retry_at > now:
            return
        records, places = self._records(now)
        segment = self._segments[self._number]
        data = b"".join(records)
        try:
            written = os.write(segment.descriptor, data)
        except OSError as error:
            self._not_written(str(error))
            return
        if written < len(data):
            os.ftruncate(segment.descriptor, segment.size)
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
        parts: list[bytes] = []
        places: dict[str, tuple[int, int]] = {}
        for record in self._unwritten:
            name, body = record.request_id.encode(), _encoder.encode(record)
            if isinstance(record, Final):
                places[record.request_id] = (number, offset)
                kind = _FINAL
            else:
                kind = _ACCEPTED
            parts += (_HEAD.pack(len(body), zlib.crc32(body), now, kind, len(name)), name, body)
            offset += _HEAD.size + len(name) + len(body)
        return parts, places

    def _forget_unwritten(self) -> None:
        self._unwritten.clear()
        self._fresh.clear()
        self._is_urgent = False

    def _not_written(self, reason: str) -> None:
        """What was not written stays in memory, within a bound, and is tried again."""
        self._retry_at = self._wall() + RETRY_SECONDS
        _log.error("the journal cannot be written: a restart would forget these replies", reason=reason)
        if sum(final.size_bytes for final in self._fresh.values()) > UNWRITTEN_BYTES:
            self._forget_unwritten()
            for accepted in self._unfinished.values():
                self.accept(accepted)

    def _roll(self) -> None:
        self._number += 1
        self._segments[self._number] = _Segment(self._path(self._number))

    def _drop(self, number: int, segment: _Segment) -> None:
        for request_id in segment.request_ids:
            if self._places.get(request_id, (0, 0))[0] == number:
                del self._places[request_id]
        segment.close()
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
        """Find again what the last broker wrote."""
        for path in sorted(self._folder.glob("*.journal")):
            number = int(path.stem)
            segment = _Segment(path)
            if not segment.size:
                segment.close()
                path.unlink()
                continue
            self._segments[number] = segment
            segment.written_at = 0.0
            for kind, request_id, offset, written_at, body in _records(segment):
                segment.written_at = max(segment.written_at, written_at)
                if kind == _FINAL:
                    self._unfinished.pop(request_id, None)
                    self._places[request_id] = (number, offset)
                    segment.request_ids.append(request_id)
                else:
                    accepted = _accepted.decode(body)
                    age = max(self._wall() - written_at, 0.0) + accepted.age_seconds
                    self._unfinished[request_id] = msgspec.structs.replace(accepted, age_seconds=age)


def _records(segment: _Segment) -> Iterator[tuple[int, str, int, float, bytes]]:
    """Kind, request id, offset, time and body of each whole record; the body of a final is left unread."""
    with mmap.mmap(segment.descriptor, 0, access=mmap.ACCESS_READ) as data:
        offset, end = 0, len(data)
        while offset + _HEAD.size <= end:
            length, checksum, written_at, kind, id_length = _HEAD.unpack_from(data, offset)
            start = offset + _HEAD.size + id_length
            last = start + length > end - _HEAD.size
            if start + length > end or kind not in (_FINAL, _ACCEPTED):
                break
            body = data[start : start + length] if kind == _ACCEPTED or last else b""
            if body and zlib.crc32(body) != checksum:
                break
            yield kind, data[offset + _HEAD.size : start].decode(), offset, written_at, body
            offset = start + length
    if offset < end:
        _log.warning("a segment of the journal ends early", segment=segment.path.name, lost_bytes=end - offset)


def _read_final(descriptor: int, offset: int) -> tuple[Final, float] | None:
    """A final and when it was written; None where its bytes are not what was written."""
    head = os.pread(descriptor, _HEAD.size, offset)
    if len(head) < _HEAD.size:
        return None
    length, checksum, written_at, _, id_length = _HEAD.unpack(head)
    body = os.pread(descriptor, length, offset + _HEAD.size + id_length)
    if zlib.crc32(body) != checksum:
        return None
    return _finals.decode(body), written_at
