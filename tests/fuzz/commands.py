"""Payloads that are commands, or nearly: valid ones of every action, encoding and spelling, and what bends them.

A case knows what must hold of its reply: `request_id` is what has to be echoed, `readable` that the payload may not be
called malformed; None where either is open.
"""

from __future__ import annotations

import random
import struct
from functools import cache
from typing import Any

import msgspec
from msgspec import Struct
from msgspec import inspect as mi

from protocol.actions import ACTIONS, Action
from protocol.checks import check
from protocol.codec import encode_command
from protocol.commands import Command
from protocol.enums import Encoding, EnumForm, Naming
from protocol.errors import Fault
from protocol.replies import Limits
from protocol.tolerant import fold

EACH_ACTION = 10
_BOM = b"\xef\xbb\xbf"
_TEXTS = (
    "",
    "m",
    "auto",
    "cpu:0",
    "CPU:9",
    "x" * 300,
    "\x00",
    "ü\U0001f600",
    "../../etc/passwd",
    "00:00:05",
    "-1.00:00",
)
_NUMBERS = (0, 1, -1, 2, 7, 64, 1.0, 0.5, -0.0, 2**31, 2**63 - 1, -(2**63), 2**63, 2**64 - 1, 1e308, 5e-324)
_RAW_JSON = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"9" * 400,
    b"0." + b"9" * 400,
    b'"\\ud800"',
    b'"\xff\xfe"',
    b'"\x00"',
    b"tru",
    b"{}{}",
    b"[" * 3000 + b"]" * 3000,
    b'{"a":' * 70 + b"1" + b"}" * 70,
)
_RAW_MSGPACK = (
    b"\xcb\x7f\xf8" + b"\x00" * 6,
    b"\xca\x7f\x80\x00\x00",
    b"\xcf" + b"\xff" * 8,
    b"\xd3\x80" + b"\x00" * 7,
    b"\xc4\x02ab",
    b"\xd6\xff\x00\x00\x00\x01",
    b"\xc7\x0c\xff\xff\xff\xff\xff" + b"\xff" * 8,
    b"\xd4\x05x",
    b"\xa2\xff\xfe",
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\x91" * 3000 + b"\xc0",
    b"\x81\x93\x01\x02\x03\x01",
    b"\x81\xc0\xc0",
)
_MARK = "~raw~"
_MARKS = {Encoding.JSON: b'"~raw~"', Encoding.MSGPACK: b"\xa5~raw~"}
_RAW = {Encoding.JSON: _RAW_JSON, Encoding.MSGPACK: _RAW_MSGPACK}


class Case(Struct, frozen=True):
    """One payload and what is known of its answer."""

    payload: bytes
    request_id: str | None = None
    readable: bool | None = None


class Commands:
    """An endless supply from one random generator."""

    def __init__(self, chance: random.Random) -> None:
        self.random = chance
        self._pool = _pool()
        self._sent = 0

    def case(self) -> Case:
        """A command, in most cases with something wrong."""
        chance = self.random
        encoding, packed = chance.choice(self._pool)
        command: dict[Any, Any] = msgspec.msgpack.decode(packed)
        request_id = self._name(command)
        bends = chance.choice((0, 0, 0, 1, 1, 1, 1, 2, 3))
        for _ in range(bends):
            self._bend(command)
        ids = [value for key, value in command.items() if isinstance(key, str) and fold(key) == "requestid"]
        request_id = request_id if ids == [request_id] else None
        payload, readable = self._written(command, encoding)
        draw = chance.random()
        if draw < 0.08:
            return Case(broken(payload, chance))
        if draw < 0.11 and encoding is Encoding.JSON:
            return Case(_BOM + payload, request_id, readable)
        if draw < 0.13:
            return Case(_twice(payload, encoding), None, readable)
        return Case(payload, request_id, readable)

    def _name(self, command: dict[Any, Any]) -> str | None:
        """Give it a request id, seldom one that was there before, and a model that is there."""
        chance = self.random
        keys = ("RequestId", "ModelId") if "Action" in command else ("request_id", "model_id")
        if "requestId" in command or "modelId" in command:
            keys = ("requestId", "modelId")
        if keys[1] in command and chance.random() < 0.8:
            command[keys[1]] = "m"
        if chance.random() < 0.1:
            command.pop(keys[0], None)
            return None
        self._sent += 1
        number = self._sent if chance.random() < 0.95 else chance.randrange(1, self._sent + 1)
        command[keys[0]] = f"f{number}"
        return f"f{number}"

    def _bend(self, command: dict[Any, Any]) -> None:
        """One thing wrong, anywhere."""
        chance, where = self.random, command
        while True:
            key = chance.choice(list(where) or [""])
            inner = where.get(key)
            if not (isinstance(inner, dict) and inner and chance.random() < 0.7):
                break
            where = inner
        match chance.randrange(9):
            case 0:
                where.pop(key, None)
            case 1:
                where[chance.choice(_TEXTS)] = self._value(2)
            case 2 if isinstance(key, str):
                where[chance.choice((key.upper(), key[:-1], key + "s", key.title(), key * 20))] = where.get(key)
            case 3:
                where[key] = [where.get(key)]
            case 4:
                where[key] = _MARK
            case _:
                where[key] = self._value(3)

    def _value(self, depth: int) -> Any:
        chance = self.random
        match chance.randrange(8 if depth else 5):
            case 0:
                return chance.choice(_TEXTS)
            case 1 | 2:
                return chance.choice(_NUMBERS)
            case 3:
                return chance.random() < 0.5
            case 4:
                return None
            case 5:
                return [self._value(depth - 1) for _ in range(chance.randrange(4))]
            case 6:
                return {chance.choice(_TEXTS): self._value(depth - 1) for _ in range(chance.randrange(4))}
            case _:
                nested: Any = 1
                for _ in range(chance.choice((3, 60, 65, 200))):
                    nested = [nested]
                return nested

    def _written(self, command: dict[Any, Any], encoding: Encoding) -> tuple[bytes, bool | None]:
        encode = msgspec.json.encode if encoding is Encoding.JSON else msgspec.msgpack.encode
        payload = encode(command)
        mark = _MARKS[encoding]
        if mark in payload:
            return payload.replace(mark, self.random.choice(_RAW[encoding]), 1), None
        return payload, None if payload.count(b"[" if encoding is Encoding.JSON else b"\x91") > 50 else True


def broken(payload: bytes, chance: random.Random) -> bytes:
    """Bytes changed, put in, taken out, cut off."""
    bent = bytearray(payload)
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(bent) + 1)
        match chance.randrange(5):
            case 0 if at < len(bent):
                bent[at] = chance.randrange(256)
            case 1:
                bent[at:at] = chance.choice((b'"', b"{", b"]", b"\xff", b"9" * 30, b",", b"\xc1", b"\\ud800", b"\x00"))
            case 2:
                del bent[at : at + chance.randrange(1, 9)]
            case 3:
                bent[at:at] = bent[at // 2 : at // 2 + 12]
            case _:
                del bent[at:]
    return bytes(bent)


def _twice(payload: bytes, encoding: Encoding) -> bytes:
    """The action given twice: the last one counts."""
    if encoding is Encoding.JSON:
        comma = b"," if payload != b"{}" else b""
        return payload[:-1] + comma + b'"action":"ping"}'
    size = payload[0] & 0x0F
    if payload[0] >> 4 != 8 or size == 15:
        return struct.pack(">BH", 0xDE, 1) + b"\xa6action\xa4ping"
    return bytes([0x80 | (size + 1)]) + payload[1:] + b"\xa6action\xa4ping"


@cache
def fields_of(cls: type[Struct]) -> tuple[mi.Field, ...]:
    """The fields of a struct."""
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return info.fields


# the pool


@cache
def _pool() -> tuple[tuple[Encoding, bytes], ...]:
    """Valid commands, packed, each with the encoding that it is to be sent in; the same in every process."""
    chance = random.Random(1)
    pool = []
    for action in ACTIONS.values():
        for command in _valid(action, chance):
            for naming, enums in (
                (Naming.SNAKE, EnumForm.NAME),
                (Naming.PASCAL, EnumForm.NUMBER),
                (Naming.CAMEL, EnumForm.NAME),
            ):
                packed = encode_command(command, Encoding.MSGPACK, naming, enums)
                pool += [(encoding, packed) for encoding in Encoding]
    return tuple(pool)


def _valid(action: Action, chance: random.Random) -> list[Command]:
    """Commands of one action that pass every check; only the plainest where chance finds no others."""
    found: list[Command] = []
    for _ in range(500):
        if len(found) < EACH_ACTION:
            command = _filled(action.command, chance, 0.4)
            command = msgspec.structs.replace(command, attachments=[], timeout_seconds=None)
            try:
                check(command, Limits())
            except Fault:
                continue
            found.append(command)
    return found


def _filled(cls: type[Struct], chance: random.Random, share: float) -> Any:
    chosen = [one for one in fields_of(cls) if one.required or one.name == "model_id" or chance.random() < share]
    return cls(**{one.name: _sample(one.type, chance) for one in chosen})


def _sample(kind: mi.Type, chance: random.Random) -> Any:
    match kind:
        case mi.UnionType():
            return _sample(chance.choice(kind.types), chance)
        case mi.StructType():
            return _filled(kind.cls, chance, 0.3)
        case mi.EnumType():
            return chance.choice(list(kind.cls))
        case mi.IntType():
            return chance.choice((1, 2, 8, 64))
        case mi.FloatType():
            return chance.choice((0.5, 1.0))
        case mi.BoolType():
            return chance.random() < 0.5
        case mi.StrType():
            return "m"
        case mi.ListType():
            return [_sample(kind.item_type, chance) for _ in range(chance.randrange(3))]
        case mi.DictType():
            return {_sample(kind.key_type, chance): _sample(kind.value_type, chance)}
        case _:
            return None
