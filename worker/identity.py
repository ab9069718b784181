"""By what a part is known before it is read: the files that it would be read from, and what would be made of them.

Two parts of one identity have the same weights. It is that of the files, not of what they hold: to know that they would
have to be read. A file's change is told by its times, so one that was written just now has no identity yet.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import diffusers
import msgspec
import torch
import transformers

from modelfiles.jsonfile import JsonObject
from worker.devices.base import Build

MAKER = (diffusers.__version__, transformers.__version__, str(torch.__version__))
"""Another version of a library may make other tensors of the same files."""

SETTLED_SECONDS = 2.0
"""The coarsest clock of a file system: within one tick a file can change, and keep its times."""

KEY_BYTES = 16

_encoder = msgspec.json.Encoder(order="deterministic")


def identity(
    cls: type[Any],
    config: JsonObject,
    build: Build,
    files: Iterable[Path],
    *,
    names: Iterable[str] = (),
) -> str:
    """The key of a part that is read from open files; `names` are what begins its tensors in them.

    "" where a file has been written to just now. Raises OSError.
    """
    marks = []
    for path in files:
        found = path.stat()
        if time.time() - found.st_ctime < SETTLED_SECONDS:
            return ""
        marks.append((found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    kind = f"{cls.__module__}.{cls.__qualname__}"
    told = (MAKER, kind, build.precision.value, build.compute.value, config, sorted(marks), sorted(names))
    return hashlib.blake2b(_encoder.encode(told), digest_size=KEY_BYTES).hexdigest()
