"""Names that nobody knows, with the one that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, get_args, get_origin

import msgspec
from msgspec import Struct

_CUTOFF = 0.6


def question(wanted: str, known: Iterable[str], before: str = "") -> str:
    """`: did you mean X?` for the nearest of those known, empty where none is near. Case does not count.

    `before` is what stands before each name, and is not compared.
    """
    by_fold = {name.lower(): name for name in known}
    found = difflib.get_close_matches(wanted.lower(), by_fold, n=1, cutoff=_CUTOFF)
    return f": did you mean {before}{by_fold[found[0]]}?" if found else ""


def unknown_keys(table: Mapping[str, Any], kind: type[Struct], prefix: str = "") -> Iterator[str]:
    """Every key of a table that its struct lacks, as its whole path and what was probably meant, tables within too."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in table.items():
        if key not in fields:
            yield f"{prefix}{key} is no key{question(key, fields)}"
            continue
        inner = _struct_in(fields[key].type)
        if inner is None:
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Mapping):
                yield from unknown_keys(one, inner, f"{prefix}{key}.")


def _struct_in(annotation: Any) -> type[Struct] | None:
    """The struct that values of this annotation are, or hold, if any; what a dict maps to is not looked into."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    if get_origin(annotation) is dict:
        return None
    return next((found for one in get_args(annotation) if (found := _struct_in(one)) is not None), None)
