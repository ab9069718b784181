"""What clients write of a model: a patch, field by field, validated as a whole.

Decides what each field may hold (`docs/protocol.md`, The catalogue). Knows nothing of where it is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from protocol.errors import ErrorCode, Fault, brief
from protocol.records import Record
from protocol.tolerant import fold, moment_of

LONGEST_LINE, LONGEST_TEXT, LONGEST_URL = 500, 16_384, 2048
MOST_TAGS, LONGEST_TAG = 100, 100
MOST_CUSTOM, LONGEST_KEY = 1000, 256
BEST = 5.0


class Written(Record, frozen=True, kw_only=True):
    """The fields that a client wrote; None where the file's own word stands."""

    name: str | None = None
    version: str | None = None
    author: str | None = None
    license: str | None = None
    description: str | None = None
    tags: list[str] | None = None
    rating: float | None = None
    source_url: str | None = None
    created_date: datetime | None = None
    training_parameters: dict[str, Any] | None = None
    configuration: dict[str, Any] | None = None
    custom: dict[str, Any] = {}


class Patched(NamedTuple):
    """The fields after a patch, and the names of those that it changed."""

    written: Written
    updated_fields: list[str]


class NotWritten(Fault):
    """A patch that changes nothing, since something in it is bad: `results` says what of each key as it was sent."""

    def __init__(self, results: dict[str, str]) -> None:
        key, reason = next(iter(results.items()))
        more = f", and {len(results) - 1} more" if len(results) > 1 else ""
        super().__init__(
            ErrorCode.INVALID_ARGUMENT,
            f"metadata.{key[:80]}: {reason}{more}",
            details={"field": f"metadata.{key[:80]}"},
        )
        self.results = results


class _Bad(ValueError):
    """Why a value cannot be written."""


def patch(written: Written, metadata: Mapping[str, Any], top: Mapping[str, Any], *, validate: bool) -> Patched:
    """The fields with every value of `metadata` written, and over it those of `top`, whose keys are canonical.

    Keys are taken in any spelling; null takes back what a client wrote before. `validate` False keeps keys that are no
    fields under `custom`. Raises NotWritten for all that is bad at once.
    """
    values: dict[str, Any] = {}
    custom: dict[str, Any] = {}
    bad: dict[str, str] = {}
    for key, value in (*metadata.items(), *top.items()):
        name = _NAMES.get(fold(key))
        try:
            if name == "custom":
                custom |= _custom(value)
            elif name is not None:
                values[name] = None if value is None else _RULES[name](value)
            elif validate:
                fields = ", ".join(_NAMES.values())
                raise _Bad(f"no field: expected one of {fields}, or validate false to keep it as custom")
            else:
                custom |= _custom({key: value})
            bad.pop(key, None)
        except _Bad as error:
            bad[key] = str(error)
    merged = _merged(written.custom, custom)
    if len(merged) > MOST_CUSTOM:
        bad["custom"] = f"{len(merged)} keys: at most {MOST_CUSTOM}"
    if bad:
        raise NotWritten(bad)
    fresh = msgspec.structs.replace(written, **values, custom=merged)
    return Patched(fresh, [name for name in _NAMES.values() if getattr(fresh, name) != getattr(written, name)])


def _merged(before: Mapping[str, Any], custom: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**before, **custom}.items() if value is not None}


def _custom(value: Any) -> dict[str, Any]:
    """Keys to merge into what there is; null takes one out."""
    if value is None:
        raise _Bad("null: expected an object; null for each key that is to go")
    found = _object(value)
    long = next((key for key in found if not 0 < len(key) <= LONGEST_KEY), None)
    if long is not None:
        raise _Bad(f"a key of {len(long)} characters: expected 1 to {LONGEST_KEY}")
    return found


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Bad(f"{brief(value)}: expected an object")
    return value


def _text(most: int, least: int = 0) -> Callable[[Any], str]:
    def rule(value: Any) -> str:
        if not isinstance(value, str):
            raise _Bad(f"{brief(value)}: expected text")
        if not least <= len(value.strip()) or len(value) > most:
            raise _Bad(f"{len(value)} characters: expected {least} to {most}")
        return value

    return rule


def _tags(value: Any) -> list[str]:
    if not isinstance(value, list | tuple) or not all(isinstance(tag, str) for tag in value):
        raise _Bad(f"{brief(value)}: expected a list of text")
    tags = list(dict.fromkeys(tag.strip() for tag in value))
    if len(tags) > MOST_TAGS:
        raise _Bad(f"{len(tags)} tags: at most {MOST_TAGS}")
    odd = next((tag for tag in tags if not 0 < len(tag) <= LONGEST_TAG), None)
    if odd is not None:
        raise _Bad(f"a tag of {len(odd)} characters: expected 1 to {LONGEST_TAG}")
    return tags


def _rating(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= BEST:
        raise _Bad(f"{brief(value)}: expected a number from 0 to {BEST:g}")
    return float(value)


def _url(value: Any) -> str:
    text = _text(LONGEST_URL, 1)(value)
    try:
        parts = urlsplit(text)
        well = parts.scheme in ("http", "https") and bool(parts.hostname) and text.isprintable() and " " not in text
    except ValueError:
        well = False
    if not well:
        raise _Bad(f"{brief(value)}: expected a URL of http or https")
    return text


def _date(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = moment_of(value.strip())
        except ValueError:
            raise _Bad(f"{brief(value)}: expected a date or time in ISO 8601") from None
    if not isinstance(value, datetime):
        raise _Bad(f"{brief(value)}: expected a date or time in ISO 8601")
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError:
        raise _Bad(f"{value.isoformat()}: a moment that UTC has no date for") from None


_RULES: Mapping[str, Callable[[Any], Any]] = {
    "name": _text(LONGEST_LINE, 1),
    "version": _text(LONGEST_LINE),
    "author": _text(LONGEST_LINE),
    "license": _text(LONGEST_LINE),
    "description": _text(LONGEST_TEXT),
    "tags": _tags,
    "rating": _rating,
    "source_url": _url,
    "created_date": _date,
    "training_parameters": _object,
    "configuration": _object,
}
_NAMES: Mapping[str, str] = {fold(name): name for name in Written.__struct_fields__}
