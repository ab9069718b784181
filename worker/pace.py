"""How a load reads its files: by how many threads, in which chunks, and what becomes of the file's pages behind it.

Decides by the strategy that was asked for; where none was, by the size of the model and the memory that the host has.
"""

from __future__ import annotations

import os

from protocol.enums import LoadingStrategy
from protocol.records import Record
from worker import host

USUAL_THREADS, MOST_THREADS = 4, 16
CHUNK_BYTES, SMALL_CHUNK_BYTES = 16 << 20, 1 << 20
SCARCE = 1.5
"""Of a model's bytes: with less memory than that at hand, it is read with the least."""

CACHED = 0.5
"""The share of a file from which it counts as kept in the page cache by others, who keep it."""


class Pace(Record, frozen=True, kw_only=True):
    """`threads` read at a time, each `chunk_bytes` at most; `gives_back`: pages leave the page cache once read."""

    threads: int = USUAL_THREADS
    chunk_bytes: int = CHUNK_BYTES
    gives_back: bool = False


AHEAD = Pace(threads=1)
"""Beside a command that has the device."""


def pace_of(
    strategy: LoadingStrategy, model_bytes: int, *, cached: float | None, host_holds_file: bool, cpus: int | None = None
) -> Pace:
    """`cached` is the share of the files in the page cache before they are read."""
    available = host.available_bytes()
    scarce = available is not None and available < SCARCE * model_bytes
    if strategy is LoadingStrategy.LOW_MEMORY or (strategy is LoadingStrategy.DEFAULT and scarce):
        kept = host_holds_file or (cached or 0.0) >= CACHED
        return Pace(threads=1, chunk_bytes=SMALL_CHUNK_BYTES, gives_back=not kept)
    if strategy is LoadingStrategy.FAST:
        return Pace(threads=min(MOST_THREADS, max(USUAL_THREADS, cpus or os.cpu_count() or 1)))
    return Pace()
