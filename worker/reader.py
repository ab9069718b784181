"""Tensors out of safetensors files into memory of our own, each in the precision wanted, by several threads.

Decides how bytes are read: in chunks, through the descriptor of the file that was checked, never through a mapping, so
that a file which is cut meanwhile is an error and not the end of the process. Between chunks a cancel is heard.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple

import torch

from modelfiles.headers import Header, Tensor
from modelfiles.jsonfile import corrupted
from worker.arena import Arena, aligned
from worker.pace import Pace

USUAL = Pace()
TELL_SECONDS = 0.1
LOOK_SECONDS = 0.05

TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E4M3": torch.float8_e4m3fn,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}
"""safetensors' names of the types that weights have."""

Choose = Callable[[str, torch.dtype], torch.dtype]
"""A tensor's name and its type in the file → the type that it is wanted in."""


class Stop(Exception):
    """Another thread failed, or the job was stopped."""


class _Piece(NamedTuple):
    """A run of a tensor's elements: where it lies in its file, and the flat tensor that it goes to."""

    descriptor: int
    file_name: str
    begin: int
    source: torch.dtype
    target: torch.Tensor


class Reader:
    """Reads for one load: `bytes` in `seconds` so far, in all; `tell` hears of the bytes, `check` raises to end it."""

    def __init__(self, check: Callable[[], None], tell: Callable[[int], None], pace: Pace = USUAL) -> None:
        self.check = check
        self._tell = tell
        self._pace = pace
        self.bytes = 0
        self.seconds = 0.0
        self._told = 0.0
        self._scratch = threading.local()
        self._stopped = threading.Event()

    def read(self, files: Iterable[tuple[Path, Header, Iterable[Tensor]]], choose: Choose) -> dict[str, torch.Tensor]:
        """These tensors by name, in one block. Raises Fault MODEL_CORRUPTED where a file ends early, and the job's."""
        listed = [(path, header, list(tensors)) for path, header, tensors in files]
        wanted = [
            (tensor, choose(tensor.name, type_of(tensor, path))) for path, _, tensors in listed for tensor in tensors
        ]
        arena = Arena(sum(aligned(math.prod(tensor.shape) * dtype.itemsize) for tensor, dtype in wanted))
        made = {tensor.name: arena.tensor(tensor.shape, dtype) for tensor, dtype in wanted}
        descriptors: list[int] = []
        began = time.perf_counter()
        try:
            pieces: list[_Piece] = []
            for path, header, tensors in listed:
                descriptors.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
                for tensor in tensors:
                    begin, target = header.data_begin + tensor.begin, made[tensor.name].view(-1)
                    whole = _Piece(descriptors[-1], path.name, begin, TYPES[tensor.dtype], target)
                    pieces += self._pieces(whole)
            self._read_all(pieces)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            self.seconds += time.perf_counter() - began
        return made

    def copy(self, descriptor: int, begin: int, target: torch.Tensor) -> None:
        """Bytes of a block of memory, from `begin` on, into `target` (bytes). Raises as `read`."""
        began = time.perf_counter()
        try:
            self._read_all(self._pieces(_Piece(descriptor, "a block of the RAM tier", begin, torch.uint8, target)))
        finally:
            self.seconds += time.perf_counter() - began

    def _read_all(self, pieces: list[_Piece]) -> None:
        """All pieces, by threads; this one listens."""
        self._stopped.clear()
        with ThreadPoolExecutor(self._pace.threads, "read") as pool:
            waiting: set[Future[int]] = {pool.submit(self._piece, piece) for piece in pieces}
            try:
                while waiting:
                    self.check()
                    done, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
                    self.bytes += sum(one.result() for one in done)
                    if time.monotonic() - self._told >= TELL_SECONDS:
                        self._told = time.monotonic()
                        self._tell(self.bytes)
            except BaseException:
                self._stopped.set()
                pool.shutdown(cancel_futures=True)
                raise

    def _pieces(self, whole: _Piece) -> list[_Piece]:
        """A run in chunks of the pace."""
        width = whole.source.itemsize
        step = self._pace.chunk_bytes // width
        return [
            whole._replace(begin=whole.begin + first * width, target=whole.target[first : first + step])
            for first in range(0, whole.target.numel(), step)
        ]

    def _piece(self, piece: _Piece) -> int:
        """Read one piece, casting it on the way where it is wanted in another type. Bytes read."""
        if self._stopped.is_set():
            raise Stop
        size = piece.target.numel() * piece.source.itemsize
        if piece.source is piece.target.dtype:
            _fill(piece, memoryview(piece.target.view(torch.uint8).numpy()))  # type: ignore[arg-type]
        else:
            if not hasattr(self._scratch, "buffer"):
                self._scratch.buffer = bytearray(self._pace.chunk_bytes)
            _fill(piece, memoryview(self._scratch.buffer)[:size])
            piece.target.copy_(torch.frombuffer(self._scratch.buffer, dtype=piece.source, count=piece.target.numel()))
        if self._pace.gives_back:
            # Whole pages alone are given back: from the beginning of the file they are all behind this piece.
            os.posix_fadvise(piece.descriptor, 0, piece.begin + size, os.POSIX_FADV_DONTNEED)
        return size


def _fill(piece: _Piece, buffer: memoryview) -> None:
    done = 0
    while done < len(buffer):
        count = os.preadv(piece.descriptor, [buffer[done:]], piece.begin + done)
        if not count:
            raise corrupted(f"{piece.file_name} ended while it was read: it has become shorter")
        done += count


def type_of(tensor: Tensor, path: Path) -> torch.dtype:
    """Its type in the file. Raises Fault MODEL_CORRUPTED for one that no weight here is of."""
    if tensor.dtype not in TYPES:
        text = f"{path.name}: the tensor {tensor.name} is of {tensor.dtype}, which no weight here is"
        raise corrupted(text, tensor=tensor.name)
    return TYPES[tensor.dtype]
