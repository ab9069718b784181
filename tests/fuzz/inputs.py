"""Hostile input from one seed: payloads, frame lists, bytes of a raw connection.

Structure-aware: most are a valid command of some action with a few things wrong; some are noise.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import msgspec

from protocol.actions import ACTIONS

_WORDS = ("", "m", "auto", "cpu:0", "CPU:9", "Normal", "x" * 300, "\x00", "ü", "../../etc/passwd", "00:00:05", "1e400")
_NUMBERS = (0, 1, -1, 2, 64, 1.0, 0.5, 2**31, 2**63 - 1, -(2**63), 2**64 - 1, 1e308, 10**30)
_SPECIAL = (
    b"",
    b"{",
    b"}",
    b"[",
    b"null",
    b"\xef\xbb\xbf{}",
    b"\x80",
    b"\x90",
    b"\xc1",
    b"\xdf\xff\xff\xff\xff",
    b"\xff" * 9,
)
_GREETING = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 16 + b"\x00" + b"\x00" * 31
_READY = b"\x04\x1a\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


class Inputs:
    """An endless supply; the same seed gives the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._count = 0
        self._fields = {
            name: [field.encode_name for field in msgspec.structs.fields(action.command)]
            for name, action in ACTIONS.items()
        }

    def payload(self) -> bytes:
        """One payload."""
        draw = self.random.random()
        if draw < 0.02:
            return self.random.choice(_SPECIAL)
        if draw < 0.05:
            return self.random.randbytes(self.random.randrange(1, 200))
        command = self._command()
        encode = msgspec.json.encode if self.random.random() < 0.6 else msgspec.msgpack.encode
        try:
            payload = encode(command)
        except (OverflowError, ValueError, msgspec.EncodeError):
            payload = msgspec.json.encode({"action": "ping"})
        return self._bent(payload) if self.random.random() < 0.25 else payload

    def frames(self) -> list[bytes]:
        """What may stand behind a routing id: an envelope, a payload, attachments, or not."""
        payload = self.payload()
        shape = self.random.choice((0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8))
        extra = [self.random.randbytes(self.random.randrange(40)) for _ in range(self.random.randrange(3))]
        heads: list[list[bytes]] = [
            [],
            [],
            [],
            [b""],
            [b"\x00\x01\x02\x03", b""],
            [b"", b""],
            [b"abc", b""],
            [payload],
            [],
        ]
        if shape == 8:
            return extra
        return [*heads[shape], payload, *(extra if self.random.random() < 0.2 else [])]

    def connection(self) -> list[bytes]:
        """Bytes for a raw TCP connection, in pieces."""
        pick = self.random.randrange(7)
        match pick:
            case 0:
                return [self.random.randbytes(self.random.randrange(1, 400))]
            case 1:
                return [_GREETING[: self.random.randrange(len(_GREETING))]]
            case 2:
                return [self._flipped(_GREETING), _READY]
            case 3:
                return [_GREETING, self._flipped(_READY)]
            case 4:
                return [
                    _GREETING,
                    _READY,
                    b"\x03" + struct.pack(">Q", 2**63 - 1 - self.random.randrange(1000)) + b"x" * 50,
                ]
            case 5:
                return [_GREETING, _READY, *(b"\x01\x20" + b"y" * 32 for _ in range(20))]
            case _:
                return [_GREETING, _READY, b"\x00\x10" + self.random.randbytes(16), b"GET / HTTP/1.1\r\n\r\n"]

    def _command(self) -> dict[str, Any]:
        chance = self.random
        action = chance.choice(list(ACTIONS))
        command: dict[str, Any] = {"action": action if chance.random() < 0.97 else chance.choice(_WORDS)}
        if chance.random() < 0.7:
            self._count += 1
            command["request_id"] = f"f{self._count if chance.random() < 0.9 else chance.randrange(1, self._count + 1)}"
        names = self._fields[action]
        for name in chance.sample(names, min(len(names), chance.randrange(5))):
            command.setdefault(self._spelled(name), self._value(3))
        if chance.random() < 0.5:
            command.setdefault("model_id", "m")
        if chance.random() < 0.3:
            command.setdefault("prompt", "x")
        if chance.random() < 0.05:
            command[chance.choice(_WORDS)] = self._value(4)
        return command

    def _spelled(self, name: str) -> str:
        match self.random.randrange(6):
            case 0:
                return "".join(part.capitalize() for part in name.split("_"))
            case 1:
                return name.upper()
            case _:
                return name

    def _value(self, depth: int) -> Any:
        chance = self.random
        match chance.randrange(9 if depth else 5):
            case 0:
                return chance.choice(_WORDS)
            case 1 | 2:
                return chance.choice(_NUMBERS)
            case 3:
                return chance.random() < 0.5
            case 4:
                return None
            case 5 | 6:
                return [self._value(depth - 1) for _ in range(chance.randrange(4))]
            case 7:
                return {chance.choice(_WORDS): self._value(depth - 1) for _ in range(chance.randrange(4))}
            case _:
                nested: Any = 1
                for _ in range(chance.choice((2, 2, 3, 3, 4, 60, 65, 400))):
                    nested = [nested]
                return nested

    def _bent(self, payload: bytes) -> bytes:
        bent = bytearray(payload)
        for _ in range(self.random.randrange(1, 4)):
            at = self.random.randrange(len(bent) + 1)
            match self.random.randrange(4):
                case 0 if at < len(bent):
                    bent[at] = self.random.randrange(256)
                case 1:
                    bent[at:at] = self.random.choice((b'"', b"{", b"]", b"\xff", b"9" * 30, b",", b"\xc1", b"\\ud800"))
                case 2:
                    del bent[at : at + self.random.randrange(1, 9)]
                case _:
                    bent[at:] = b""
        return bytes(bent)

    def _flipped(self, data: bytes) -> bytes:
        flipped = bytearray(data)
        flipped[self.random.randrange(len(flipped))] ^= 1 << self.random.randrange(8)
        return bytes(flipped)


def mixed(seed: int, count: int) -> Iterator[list[bytes]]:
    """So many frame lists of one seed."""
    inputs = Inputs(seed)
    for _ in range(count):
        yield inputs.frames()
