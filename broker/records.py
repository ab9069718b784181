"""The journal's records on disk: each knows its length, and whether its head, its id and its body are as written.

A record is `[magic][length of the body][CRC-32 of the body][time][kind][length of the id][CRC-32 of head and id][id]
[body]`. What is damaged between two records is passed over: the next one is found by its magic. The first record of a
file is an anchor, which ties its times, seconds since the machine started, to a day's clock and to that start. Decides
what of a file can be read; knows nothing of what bodies mean.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import msgspec
from msgspec import Struct

MAGIC = b"\xf5VJ2"
_HEAD = struct.Struct("<4sIIdBH")
_HEAD_CRC = struct.Struct("<I")
HEAD_BYTES = _HEAD.size + _HEAD_CRC.size
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Kind(IntEnum):
    """What a record is."""

    FINAL = 1
    ACCEPTED = 2
    ANCHOR = 3


class Record(Struct, frozen=True):
    """One record: its place and when it was written, by its file's own times. `body` None: not what was written."""

    kind: Kind
    request_id: str
    offset: int
    written_at: float
    body: bytes | None


class Anchor(Struct, frozen=True):
    """What a file's times mean: the machine's start, and one moment by both clocks, in seconds."""

    boot: str
    clock: float
    wall: float

    def shift(self, now: Anchor) -> float:
        """What makes a time of this file one of `now`'s clock; by the day's clock only across a restart of the
        machine."""
        if self.boot == now.boot:
            return 0.0
        return (now.clock - max(0.0, now.wall - self.wall)) - self.clock


class Scan:
    """Reads a file from its beginning; `lost_bytes` once it is read."""

    def __init__(self, descriptor: int) -> None:
        self.lost_bytes = 0
        self._descriptor = descriptor

    def records(self) -> Iterator[Record]:
        """Every record that is whole. The body of a final is not read, unless it is the file's last."""
        size = os.fstat(self._descriptor).st_size
        if not size:
            return
        with mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ) as data:
            offset = 0
            while offset < size:
                found = _at(data, offset, size)
                if found is None:
                    following = data.find(MAGIC, offset + 1)
                    following = size if following < 0 else following
                    self.lost_bytes += following - offset
                    offset = following
                    continue
                record, offset = found
                yield record


def pack(kind: Kind, request_id: str, body: bytes, now: float) -> list[bytes]:
    """The parts of a record."""
    name = request_id.encode("utf-8", "surrogatepass")
    head = _HEAD.pack(MAGIC, len(body), zlib.crc32(body), now, kind, len(name))
    return [head, _HEAD_CRC.pack(zlib.crc32(name, zlib.crc32(head))), name, body]


def read_body(descriptor: int, offset: int) -> tuple[bytes | None, float]:
    """The body of the record at an offset, and when it was written; None where it is not what was written, and infinity
    where nobody can tell any more when it was."""
    head = os.pread(descriptor, HEAD_BYTES, offset)
    if len(head) < HEAD_BYTES:
        return None, float("inf")
    _, length, checksum, written_at, _, id_length = _HEAD.unpack_from(head)
    body = os.pread(descriptor, length, offset + HEAD_BYTES + id_length)
    return (body if zlib.crc32(body) == checksum and len(body) == length else None), written_at


def anchor(clock: float, wall: float) -> Anchor:
    """The present moment."""
    try:
        boot = _BOOT.read_text().strip()
    except OSError:
        boot = ""
    return Anchor(boot, clock, wall)


def pack_anchor(now: Anchor) -> bytes:
    """The first record of a file."""
    return b"".join(pack(Kind.ANCHOR, "", msgspec.msgpack.encode(now), now.clock))


def read_anchor(record: Record) -> Anchor | None:
    """The anchor that a record is; None for any other."""
    if record.kind is not Kind.ANCHOR or record.body is None:
        return None
    try:
        return msgspec.msgpack.decode(record.body, type=Anchor)
    except (msgspec.DecodeError, ValueError):
        return None


def _at(data: mmap.mmap, offset: int, size: int) -> tuple[Record, int] | None:
    """The record at an offset and where the next one begins; None where there is none that is whole."""
    if offset + HEAD_BYTES > size:
        return None
    head = data[offset : offset + _HEAD.size]
    magic, length, checksum, written_at, kind, id_length = _HEAD.unpack(head)
    (head_checksum,) = _HEAD_CRC.unpack_from(data, offset + _HEAD.size)
    start = offset + HEAD_BYTES + id_length
    end = start + length
    name = data[offset + HEAD_BYTES : start]
    if magic != MAGIC or end > size or zlib.crc32(name, zlib.crc32(head)) != head_checksum:
        return None
    if kind not in Kind.__members__.values():
        return None
    body: bytes | None = b""
    if kind != Kind.FINAL or end + HEAD_BYTES > size:
        body = data[start:end]
        body = body if zlib.crc32(body) == checksum else None
    return Record(Kind(kind), name.decode("utf-8", "surrogatepass"), offset, written_at, body), end
