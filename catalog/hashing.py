"""Checksums of models.

Decides what a checksum covers. `full` is the SHA-256 of the file, in hex; of a folder, that of the lines
`<sha256>  <part>/<file name>` of its weight files, sorted. `fast` is `fast:` and the SHA-256 of each file's size, first
and last MiB, and 14 blocks of 64 KiB spread evenly between: it tells files apart, it does not prove them equal.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator
from pathlib import Path

from modelfiles.model import Kind, ModelFile
from protocol.enums import HashDepth

EDGE_BYTES = 1 << 20
BLOCK_BYTES = 64 << 10
BLOCKS = 14
CHUNK_BYTES = 4 << 20
FAST_PREFIX = "fast:"
WHOLE_BYTES, SPOT_BYTES, SPOTS = 64 << 10, 4 << 10, 32
"""Of a mark: 188 KiB of a file at most."""


def checksum(model: ModelFile, depth: HashDepth) -> Generator[None, None, str]:
    """The model's checksum, yielding between reads so that the caller can do other things. Raises OSError."""
    if depth is HashDepth.NONE:
        return ""
    read = _full if depth is HashDepth.FULL else _fast
    if model.kind is Kind.FOLDER:
        lines = []
        for part in sorted(model.parts, key=lambda part: part.name):
            for file in sorted(part.files):
                digest = yield from read(Path(file))
                lines.append(f"{digest}  {part.name}/{Path(file).name}\n")
        result = hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()
    else:
        result = yield from read(Path(model.path))
    return result if depth is HashDepth.FULL else FAST_PREFIX + result


def mark(model: ModelFile) -> Generator[None, None, str]:
    """A digest of samples of all that a model's record rests on, configurations too: cheap to make, and no proof.

    It tells contents apart that differ in a run of a thirtieth of a file, as another part or another training does. A
    file of up to `WHOLE_BYTES` is read whole. Yields between files. Raises OSError.
    """
    state = hashlib.blake2b(digest_size=16)
    for fingerprint in model.fingerprints:
        if fingerprint.is_folder:
            continue
        state.update(f"{fingerprint.path!a} {fingerprint.size}\n".encode())
        with open(fingerprint.path, "rb", buffering=0) as file:  # noqa: PTH123 - a path as text, once for each file
            for begin, length in _spots(fingerprint.size):
                state.update(os.pread(file.fileno(), length, begin))
        yield
    return state.hexdigest()


def _spots(size: int) -> list[tuple[int, int]]:
    """(offset, length) of what a mark reads of a file: its beginning, its end, and spots spread evenly between."""
    if size <= WHOLE_BYTES:
        return [(0, size)]
    step = (size - SPOT_BYTES) / (SPOTS - 1)
    return [(0, WHOLE_BYTES), *((int(number * step), SPOT_BYTES) for number in range(1, SPOTS))]


def _full(path: Path) -> Generator[None, None, str]:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            yield
    return digest.hexdigest()


def _fast(path: Path) -> Generator[None, None, str]:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest.update(size.to_bytes(8, "little"))
        for begin, length in _samples(size):
            file.seek(begin)
            digest.update(file.read(length))
    yield
    return digest.hexdigest()


def _samples(size: int) -> list[tuple[int, int]]:
    """(offset, length) of the parts that `fast` reads; a file of up to 3 MiB is read whole."""
    if size <= 3 * EDGE_BYTES:
        return [(0, size)]
    step = (size - 2 * EDGE_BYTES) // (BLOCKS + 1)
    between = [(EDGE_BYTES + step * index, BLOCK_BYTES) for index in range(1, BLOCKS + 1)]
    return [(0, EDGE_BYTES), *between, (size - EDGE_BYTES, EDGE_BYTES)]
