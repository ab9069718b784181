"""What a file holds, in a digest that tells one content from another: what decides whether a model has changed.

Of a safetensors file: its table of tensors, and samples of every tensor; of any other file: all of it, or samples where
it is large. Metadata in a safetensors header, and the order of the tensors, are none of the content. A sampled digest
tells contents apart that differ as weights do, in every tensor or in a whole one; it is no proof of equality byte by
byte.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from modelfiles.fingerprints import Fingerprint
from modelfiles.headers import Header, header_of
from modelfiles.jsonfile import open_regular
from protocol.errors import Fault
from protocol.records import Record

WHOLE_BYTES = 64 << 10
"""Up to here a tensor is read whole."""

SAMPLE_BYTES = 1 << 10
SAMPLES = 8
"""Of a larger one, spread evenly, its beginning and its end among them."""

WHOLE_FILE_BYTES = 16 << 20
FILE_SAMPLES = 4096


class Content(Record, frozen=True, kw_only=True):
    """A file as it was read: what it held, and by what to see whether it must be looked at again."""

    fingerprint: Fingerprint
    digest: str

    @staticmethod
    def of(descriptor: int, path: str) -> Content:
        """The content of an open file. Raises OSError."""
        fingerprint = Fingerprint.of_stat(Path(path), os.fstat(descriptor))
        return Content(fingerprint=fingerprint, digest=_digest(descriptor, fingerprint))

    @staticmethod
    def read(path: str) -> Content:
        """The content of the file at a path. Raises OSError, Fault MODEL_NOT_FOUND or MODEL_CORRUPTED."""
        descriptor = open_regular(Path(path))
        try:
            return Content.of(descriptor, path)
        finally:
            os.close(descriptor)

    def now(self) -> Content:
        """What lies at its path now, read only where it must be looked at. Raises as `read`."""
        return self if self.fingerprint.is_current() else Content.read(self.fingerprint.path)


def _digest(descriptor: int, fingerprint: Fingerprint) -> str:
    name = Path(fingerprint.path).name
    state = hashlib.blake2b(digest_size=32)
    if name.lower().endswith(".safetensors"):
        try:
            _tensors(state, descriptor, header_of(descriptor, fingerprint, name))
        except Fault:
            # No safetensors file any more: whatever it holds now is another content.
            state.update(b"damaged")
            _sample(state, descriptor, (0, fingerprint.size), WHOLE_FILE_BYTES, FILE_SAMPLES)
    else:
        _sample(state, descriptor, (0, fingerprint.size), WHOLE_FILE_BYTES, FILE_SAMPLES)
    return state.hexdigest()


def _tensors(state: hashlib.blake2b, descriptor: int, header: Header) -> None:
    for tensor in sorted(header.tensors, key=lambda tensor: tensor.name):
        state.update(f"{tensor.name!a} {tensor.dtype} {tensor.shape}\n".encode())
        _sample(state, descriptor, (header.data_begin + tensor.begin, tensor.bytes), WHOLE_BYTES, SAMPLES)


def _sample(state: hashlib.blake2b, descriptor: int, extent: tuple[int, int], whole_bytes: int, samples: int) -> None:
    """Take in an extent, (begin, bytes): all of it up to `whole_bytes`, else that many samples."""
    begin, size = extent
    state.update(size.to_bytes(8, "little"))
    if size <= whole_bytes:
        state.update(os.pread(descriptor, size, begin))
        return
    step = (size - SAMPLE_BYTES) / (samples - 1)
    for number in range(samples):
        state.update(os.pread(descriptor, SAMPLE_BYTES, begin + int(number * step)))
