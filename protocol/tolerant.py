"""The slow, forgiving decode: what .NET and MessagePack-CSharp write by default becomes what the structs want.

Guided by the target type: any spelling of a field name, any case of an enum name, ordinals, null for a default, `1.0`
for an integer, TimeSpan text for a duration, fractions of a second with seven digits. Unknown fields are named in
`warnings` with the nearest known name. Everything else that does not fit is a `Fault` that names field and value.
"""

from __future__ import annotations

import contextlib
import difflib
import enum
import math
import re
import sys
from datetime import UTC, datetime
from functools import cache
from typing import Any

from msgspec import Struct
from msgspec import inspect as mi

from protocol.enums import EnumForm, Naming, WireEnum
from protocol.errors import invalid, missing

DURATION_FIELDS = frozenset({"timeout_seconds", "keep_alive"})
"""Fields in seconds that may also be TimeSpan text."""

_TIMESPAN = re.compile(r"(-)?(?:(\d{1,8})\.)?(\d{1,2}):(\d{2})(?::(\d{2})(\.\d{1,7})?)?", re.ASCII)
_MIN_INTEGER, _END_INTEGER, _END_UNSIGNED = -(2**63), 2**63, 2**64
_MOST_SUGGESTIONS = 32
MOST_WARNINGS = 64
"""Of one message's fields; the rest are counted in one more."""

_FRACTION = re.compile(r"(\.\d{6})\d+")


def fold(name: str) -> str:
    """A name without case and underscores: what all its spellings have in common."""
    return name.replace("_", "").lower()


def naming_of(key: str) -> Naming | None:
    """The naming that a key shows; None for a lower-case word, which snake and camel share."""
    if key[:1].isupper():
        return Naming.PASCAL
    if "_" in key:
        return Naming.SNAKE
    return Naming.CAMEL if any(letter.isupper() for letter in key) else None


def seconds_of(text: str) -> float | None:
    """Seconds of TimeSpan text (`[-][d.]hh:mm[:ss[.fffffff]]`); None for any other text."""
    match = _TIMESPAN.fullmatch(text)
    if match is None:
        return None
    sign, days, hours, minutes, secs, fraction = match.groups()
    whole = int(days or 0) * 86_400 + int(hours) * 3600 + int(minutes) * 60 + int(secs or 0)
    return (whole + float(fraction or 0)) * (-1 if sign else 1)


@cache
def _fields(cls: type[Struct]) -> dict[str, mi.Field]:
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return {fold(field.name): field for field in info.fields}


def enum_fields(kind: Any) -> set[str]:
    """The wire names of all fields, at any depth of a struct type or a union, that can hold a `WireEnum`."""
    names: set[str] = set()
    pending, seen = [mi.type_info(kind)], set()
    while pending:
        info = pending.pop()
        if isinstance(info, mi.UnionType):
            pending.extend(info.types)
        elif isinstance(info, mi.StructType) and info.cls not in seen:
            seen.add(info.cls)
            names |= {field.encode_name for field in info.fields if _holds_enum(field.type)}
            pending.extend(field.type for field in info.fields)
    return names


@cache
def free_fields(cls: type[Struct]) -> tuple[str, ...]:
    """The fields of a struct type in which any JSON value may stand, at any depth below them."""
    return tuple(field.name for field in _fields(cls).values() if _is_free(field.type))


def _is_free(kind: mi.Type) -> bool:
    if isinstance(kind, mi.UnionType):
        return any(_is_free(member) for member in kind.types)
    if isinstance(kind, mi.DictType):
        return _is_free(kind.value_type)
    if isinstance(kind, mi.StructType):
        return bool(free_fields(kind.cls))
    return isinstance(kind, mi.AnyType)


@cache
def integer_fields(cls: type[Struct]) -> tuple[str, ...]:
    """The fields of a struct type in which an integer may stand, itself or at any depth below them."""
    return tuple(field.name for field in _fields(cls).values() if _holds_integer(field.type))


def _holds_integer(kind: mi.Type) -> bool:
    if isinstance(kind, mi.UnionType):
        return any(_holds_integer(member) for member in kind.types)
    if isinstance(kind, mi.ListType):
        return _holds_integer(kind.item_type)
    if isinstance(kind, mi.DictType):
        return _holds_integer(kind.value_type)
    if isinstance(kind, mi.StructType):
        return bool(integer_fields(kind.cls))
    return isinstance(kind, mi.IntType)


def has_long_integer(value: Struct) -> bool:
    """Does a field hold an integer that needs more than 64 bits with a sign?"""
    for name in integer_fields(type(value)):
        content = getattr(value, name)
        if content is not None and _is_long(content):
            return True
    return False


def _is_long(value: Any) -> bool:
    if isinstance(value, int):
        return not _MIN_INTEGER <= value < _END_INTEGER
    if isinstance(value, Struct):
        return has_long_integer(value)
    if isinstance(value, dict):
        return any(map(_is_long, value.values()))
    return isinstance(value, list) and any(map(_is_long, value))


def _holds_enum(kind: mi.Type) -> bool:
    if isinstance(kind, mi.UnionType):
        return any(_holds_enum(member) for member in kind.types)
    if isinstance(kind, mi.ListType):
        return _holds_enum(kind.item_type)
    return isinstance(kind, mi.EnumType) and issubclass(kind.cls, WireEnum)


class Repair:
    """One tolerant decode: what was warned of, and which naming and enum form the message shows.

    `from_client` False reads a reply: unknown fields pass in silence, free content is taken as it is.
    """

    def __init__(self, *, from_client: bool = True) -> None:
        self._warnings: list[str] = []
        self._unsaid = 0
        self._from_client = from_client
        self._suggestions = 0
        self._namings: list[Naming] = []
        self._enum_forms: set[EnumForm] = set()

    @property
    def warnings(self) -> list[str]:
        """What was warned of, in the order of the message."""
        more = [f"{self._unsaid} more fields are unknown or given twice"] if self._unsaid else []
        return [*self._warnings, *more]

    @property
    def naming(self) -> Naming | None:
        """The naming shown by most keys that show one; the first of equals."""
        counts = {naming: self._namings.count(naming) for naming in dict.fromkeys(self._namings)}
        return max(counts, key=lambda naming: counts[naming]) if counts else None

    @property
    def enums(self) -> EnumForm | None:
        """The enum form shown; one ordinal among names means numbers."""
        if EnumForm.NUMBER in self._enum_forms:
            return EnumForm.NUMBER
        return EnumForm.NAME if self._enum_forms else None

    def see_key(self, key: str) -> None:
        """Note what a key shows of the naming."""
        shown = naming_of(key)
        if shown is not None:
            self._namings.append(shown)

    def struct(self, value: Any, cls: type[Struct], path: str = "", *, ignore: frozenset[str] = frozenset()) -> Any:
        """A map as a struct of `cls`. Raises Fault. `ignore` are folded keys that are no fields."""
        if not isinstance(value, dict):
            raise invalid(path or "payload", value, "an object")
        known = _fields(cls)
        found: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise invalid(f"{path}key" if not path else f"{path} key", key, "text")
            folded = fold(key)
            if folded in ignore:
                continue
            field = known.get(folded)
            if field is None:
                self._unknown(key, path, known)
                continue
            self.see_key(key)
            self._take(found, field, item, f"{path}.{field.name}" if path else field.name)
        for field in known.values():
            if field.required and field.name not in found:
                raise missing(f"{path}.{field.name}" if path else field.name)
        return cls(**found)

    def _take(self, found: dict[str, Any], field: mi.Field, item: Any, path: str) -> None:
        if item is None and not field.required and not _allows_none(field.type):
            return
        if item is None and field.required and not _allows_none(field.type):
            raise missing(path)
        if field.name in DURATION_FIELDS and isinstance(item, str):
            item = _duration(item, path)
        if field.name in found:
            self._warn(f"field '{path[:120]}' is given twice: the last one counts")
        found[field.name] = self.value(item, field.type, path)

    def _unknown(self, key: str, path: str, known: dict[str, mi.Field]) -> None:
        if not self._from_client:
            return
        if len(self._warnings) >= MOST_WARNINGS:
            self._unsaid += 1
            return
        # A search costs as much as a small decode: a payload of nothing but unknown names must not hold the broker up.
        self._suggestions += 1
        few = self._suggestions <= _MOST_SUGGESTIONS
        close = difflib.get_close_matches(fold(key[:120]), known, n=1, cutoff=0.6) if few else []
        nearest = f"; the nearest known name is '{known[close[0]].name}'" if close else ""
        where = f"{path}.{key}" if path else key
        self._warn(f"unknown field '{where[:120]}' is ignored{nearest}")

    def _warn(self, text: str) -> None:
        if len(self._warnings) < MOST_WARNINGS:
            self._warnings.append(text)
        else:
            self._unsaid += 1

    def value(self, value: Any, kind: mi.Type, path: str) -> Any:
        """A value as the type wants it. Raises Fault."""
        match kind:
            case mi.AnyType():
                return _json_value(value, path) if self._from_client else value
            case mi.UnionType():
                return self._union(value, kind, path)
            case mi.StructType():
                return self.struct(value, kind.cls, path)
            case mi.EnumType():
                return self._enum(value, kind.cls, path)
            case mi.IntType():
                return _integer(value, path)
            case mi.FloatType():
                return _number(value, path)
            case mi.ListType():
                return self._list(value, kind, path)
            case mi.DictType():
                return self._dict(value, kind, path)
            case mi.DateTimeType():
                return _datetime(value, path)
            case mi.StrType() | mi.BoolType():
                wanted = str if isinstance(kind, mi.StrType) else bool
                if not isinstance(value, wanted):
                    raise invalid(path, value, "text" if wanted is str else "true or false")
                return value
            case _:
                raise TypeError(f"no tolerant decode for {kind} at {path}")

    def _union(self, value: Any, kind: mi.UnionType, path: str) -> Any:
        members = [member for member in kind.types if not isinstance(member, mi.NoneType)]
        if value is None and len(members) < len(kind.types):
            return None
        return self.value(value, members[0], path)

    def _list(self, value: Any, kind: mi.ListType, path: str) -> list[Any]:
        if not isinstance(value, list | tuple):
            raise invalid(path, value, "a list")
        return [self.value(item, kind.item_type, f"{path}[{index}]") for index, item in enumerate(value)]

    def _dict(self, value: Any, kind: mi.DictType, path: str) -> dict[Any, Any]:
        if not isinstance(value, dict):
            raise invalid(path, value, "an object")
        out = {}
        for key, item in value.items():
            if not isinstance(key, str | int):
                raise invalid(f"{path} key", key, "text")
            out[self.value(key, kind.key_type, f"{path} key")] = self.value(item, kind.value_type, f"{path}.{key}")
        return out

    def _enum(self, value: Any, cls: type[enum.Enum], path: str) -> enum.Enum:
        if isinstance(value, str):
            member = _by_name(cls).get(fold(value))
            if member is not None:
                if issubclass(cls, WireEnum):
                    self._enum_forms.add(EnumForm.NAME)
                return member
        elif issubclass(cls, WireEnum) and isinstance(value, int | float) and not isinstance(value, bool):
            for candidate in cls:
                if candidate.ordinal == value:
                    self._enum_forms.add(EnumForm.NUMBER)
                    return candidate
        raise invalid(path, value, "one of " + ", ".join(str(member.value) for member in cls))


@cache
def _by_name(cls: type[enum.Enum]) -> dict[str, enum.Enum]:
    return {fold(member.value): member for member in cls}


def _allows_none(kind: mi.Type) -> bool:
    if isinstance(kind, mi.AnyType | mi.NoneType):
        return True
    return isinstance(kind, mi.UnionType) and any(isinstance(member, mi.NoneType) for member in kind.types)


def _duration(text: str, path: str) -> float:
    seconds = seconds_of(text)
    if seconds is None:
        raise invalid(path, text, "seconds or TimeSpan text such as 00:05:00")
    return seconds


def _integer(value: Any, path: str) -> int:
    if isinstance(value, int | float) and not isinstance(value, bool) and _MIN_INTEGER <= value < _END_INTEGER:
        whole = int(value)
        if whole == value:
            return whole
    raise invalid(path, value, "an integer of 64 bits")


def _number(value: Any, path: str) -> float:
    if (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and -sys.float_info.max <= value <= sys.float_info.max
    ):
        return float(value)
    raise invalid(path, value, "a finite number")


def _is_leaf(value: Any, end: int) -> bool:
    """Whether a value that is no list and no object, and no integer from `end` on, can stand in any reply."""
    if value is None or isinstance(value, str | bool | datetime):
        return True
    if isinstance(value, int):
        return _MIN_INTEGER <= value < end
    return isinstance(value, float) and math.isfinite(value)


def is_plain(value: Any, depth: int) -> bool:
    """Whether a decoded value needs no closer look: JSON's values and moments, at most `depth` levels deep."""
    if isinstance(value, dict):
        return depth > 0 and all(isinstance(key, str) and is_plain(item, depth - 1) for key, item in value.items())
    if isinstance(value, list | tuple):
        return depth > 0 and all(is_plain(item, depth - 1) for item in value)
    return _is_leaf(value, _END_INTEGER)


def _json_value(value: Any, path: str) -> Any:
    """Free content, held to what a reply could say again."""
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise invalid(f"{path} key", key, "text")
            _json_value(item, f"{path}.{key[:80]}")
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _json_value(item, f"{path}[{index}]")
    elif not _is_leaf(value, _END_UNSIGNED):
        raise invalid(path, value, "a JSON value: text, a finite number of 64 bits, true, false, null, list or object")
    return value


def moment_of(text: str) -> datetime:
    """A date or time in ISO 8601, of any number of digits in its fraction; UTC where it names no zone. Raises
    ValueError."""
    moment = datetime.fromisoformat(_FRACTION.sub(r"\1", text))
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _datetime(value: Any, path: str) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return moment_of(value)
    raise invalid(path, value, "a date and time in ISO 8601")
