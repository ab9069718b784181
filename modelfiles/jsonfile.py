"""JSON from model files, which strangers wrote: an object, bounded, without duplicate keys or non-finite numbers.

Decides what counts as readable. Knows nothing of what the keys mean.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
from pathlib import Path
from typing import NoReturn

from modelfiles.text import holds_text
from protocol.errors import ErrorCode, Fault

JsonObject = dict[str, object]
_ESCAPED_HALF = re.compile(rb"\\u[dD][89a-fA-F]")

MOST_OBJECTS = 200_000
MOST_VALUES = 4_000_000
"""Of any document, as its commas count them, those within text too: a list of so many takes some 100 MB."""

MOST_DIGITS = 40
"""Of an integer. Tokenizers without a longest text have one of 31."""

CONFIG_LIMIT_BYTES = 4 << 20
INDEX_LIMIT_BYTES = 64 << 20


def corrupted(message: str, **details: object) -> Fault:
    """A file that is not what its format says; `details` are the numbers behind it."""
    return Fault(ErrorCode.MODEL_CORRUPTED, message, details=dict(details))


def incompatible(message: str, **details: object) -> Fault:
    """A model that no supported class can be built from."""
    return Fault(ErrorCode.MODEL_INCOMPATIBLE, message, details=dict(details))


def unsafe(message: str, **details: object) -> Fault:
    """A file that could run code, or leave the model roots, when loaded."""
    return Fault(ErrorCode.UNSAFE_MODEL, message, details=dict(details))


def open_regular(path: Path) -> int:
    """A descriptor for reading a regular file. Raises Fault MODEL_NOT_FOUND or MODEL_CORRUPTED."""
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Fault(ErrorCode.MODEL_NOT_FOUND, f"{path.name} does not exist") from None
    except OSError as error:
        raise corrupted(f"{path.name} cannot be read: {os.strerror(error.errno or 0)}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise corrupted(f"{path.name} is not a regular file")
    return descriptor


def read_object(path: Path, limit_bytes: int = CONFIG_LIMIT_BYTES) -> JsonObject:
    """The JSON object in a file of at most `limit_bytes`. Raises Fault MODEL_CORRUPTED."""
    with os.fdopen(open_regular(path), "rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise corrupted(f"{path.name} is larger than {limit_bytes} bytes", limit_bytes=limit_bytes)
    return parse_object(data, path.name, infinite=True)


def parse_object(
    data: bytes, what: str, *, any_text: bool = False, infinite: bool = False, most_objects: int = MOST_OBJECTS
) -> JsonObject:
    """The JSON object in `data`; `what` names its source in the Fault MODEL_CORRUPTED.

    No more is built than `most_objects` objects and as many values as `MOST_VALUES`; text is as long as the file is.
    `any_text`: the caller looks itself at text that is no Unicode. `infinite`: Python's Infinity is a number, as
    schedulers' configurations have it.
    """
    values = data.count(b",") + 1
    if values > MOST_VALUES:
        raise corrupted(f"{what} has about {values} values; the limit is {MOST_VALUES}", limit=MOST_VALUES)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_Objects(most_objects).take,
            parse_constant=_infinite if infinite else _not_finite,
            parse_float=_finite,
            parse_int=_integer,
        )
    except RecursionError:
        raise corrupted(f"{what} is nested too deeply") from None
    except ValueError as error:
        raise corrupted(f"{what} is not valid JSON: {_short(error)}") from None
    if not any_text and _ESCAPED_HALF.search(data) and not holds_text(value):
        raise corrupted(f"{what} holds text that is no Unicode: half of a surrogate pair")
    if not isinstance(value, dict):
        raise corrupted(f"{what} holds a JSON {type(value).__name__}, not an object")
    return value


def _short(error: ValueError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not UTF-8"
    return str(error)[:120]


class _Objects:
    """The objects of one document as they are read; one too many ends the reading."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0

    def take(self, pairs: list[tuple[str, object]]) -> JsonObject:
        self._count += 1
        if self._count > self._most:
            raise ValueError(f"it has more than {self._most} objects")
        return _unique(pairs)


def _unique(pairs: list[tuple[str, object]]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} stands twice")
    return result


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _not_finite(text[:40])


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise ValueError(f"{text[:40]}... is a number of {len(text)} digits")
    return int(text)


def _infinite(text: str) -> float:
    return float(text) if text != "NaN" else _not_finite(text)


def _not_finite(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
