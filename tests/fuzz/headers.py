"""What a worker could say, and what it could not: every message of the link with hostile values, and bent bytes."""

from __future__ import annotations

import random
from typing import Any

import msgspec
from msgspec import inspect as mi

from protocol import link
from tests.fuzz.commands import broken, fields_of

_KINDS = (link.Register, link.Beat, link.Report, link.ModelChanged, link.JobUpdate, link.CatalogEntries)
_TEXTS = ("", "m", "n", "cpu:0", "cpu:1", "cpu:9", "catalog", "f1", "x" * 300, "\x00", "ü", "a b", "model.m", "../m")
_INTEGERS = (0, 0, 1, 1, 2, -1, 64, 2**31, 2**55, -(2**55))
"""Such that what several workers report still has a sum of 64 bits."""

_FLOATS = (0.0, 1.0, -1.0, 0.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), float("-inf"))
_BOMB = b"\x82\xa1t\xa4beat\xa1x" + b"\x91" * 5000 + b"\xc0"


class Headers:
    """An endless supply from one random generator."""

    def __init__(self, chance: random.Random) -> None:
        self.random = chance

    def header(self, ids: list[str]) -> bytes:
        """One header frame; `ids` are the request ids that may be meant."""
        chance = self.random
        draw = chance.random()
        if draw < 0.02:
            return _BOMB
        if draw < 0.05:
            return chance.randbytes(chance.randrange(40))
        message = self._filled(chance.choice(_KINDS), ids)
        try:
            frame = msgspec.msgpack.encode(message)
        except OverflowError:
            return b""
        return broken(frame, chance) if chance.random() < 0.15 else frame

    def _filled(self, cls: type[msgspec.Struct], ids: list[str]) -> Any:
        chosen = [one for one in fields_of(cls) if one.required or self.random.random() < 0.6]
        return cls(**{one.name: self._value(one.type, one.name, ids) for one in chosen})

    def _value(self, kind: mi.Type, name: str, ids: list[str]) -> Any:
        chance = self.random
        match kind:
            case mi.UnionType():
                return self._value(chance.choice(kind.types), name, ids)
            case mi.StructType():
                return self._filled(kind.cls, ids)
            case mi.EnumType():
                return chance.choice(list(kind.cls))
            case mi.IntType():
                return chance.choice(_INTEGERS)
            case mi.FloatType():
                return chance.choice(_FLOATS)
            case mi.BoolType():
                return chance.random() < 0.5
            case mi.StrType():
                known = ids if name == "request_id" and ids else _TEXTS
                return chance.choice(known if chance.random() < 0.9 else _TEXTS)
            case mi.BytesType():
                return chance.choice((b"", b"{}", b'{"action":"generate","model_id":"m","prompt":"x"}', b"\xc1"))
            case mi.ListType():
                return [self._value(kind.item_type, name, ids) for _ in range(chance.randrange(3))]
            case mi.DictType():
                return {self._value(kind.key_type, name, ids): self._value(kind.value_type, name, ids)}
            case mi.DateTimeType():
                return chance.choice(("2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"))
            case _:
                return None
