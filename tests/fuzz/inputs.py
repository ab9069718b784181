"""Hostile input from one seed: frame lists behind a routing id, bytes of a raw connection."""

from __future__ import annotations

import random

from msgspec import Struct

from tests.fuzz.commands import Case, Commands
from tests.fuzz.zmtp import COMMAND, GREETING, LONG, MORE, frame, long_header, ready

_NOISE = (
    b"",
    b"{",
    b"}",
    b"[",
    b"[]",
    b"null",
    b"\xef\xbb\xbf",
    b"\xef\xbb\xbf{}",
    b" \r\n\t{}",
    b"\x80",
    b"\x90",
    b"\x93\x01\x02\x03",
    b"\xc1",
    b"\xde\x00\x00",
    b"\xdf\xff\xff\xff\xff",
    b"\xff" * 9,
)
_ENVELOPES = ((), (), (), (), (b"",), (b"\x00\x01\x02\x03", b""))
_ODD_ENVELOPES = ((b"", b""), (b"abc", b""), (b"\x00" * 4,), (b"\xff" * 300, b""), (b"", b"", b"", b""))
_SIZES = (2**63 - 1, 2**64 - 1, 2**40, 130 << 20, 65_536, 0)


class Message(Struct, frozen=True):
    """The frames that a client sends, and what is known of the answer to the payload among them.

    `is_plain`: the envelope is one of the wire's, the payload is where it has to be.
    """

    frames: list[bytes]
    case: Case
    is_plain: bool


class Inputs:
    """An endless supply; the same seed gives the same."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._commands = Commands(self.random)

    def message(self) -> Message:
        """One message of a client."""
        chance = self.random
        case = self._case()
        is_plain = chance.random() < 0.95
        envelope = chance.choice(_ENVELOPES if is_plain else _ODD_ENVELOPES)
        count = 0 if chance.random() < 0.93 else chance.choice((1, 1, 2, 17))
        extra = [chance.randbytes(chance.randrange(40)) for _ in range(count)]
        return Message([*envelope, case.payload, *extra], case, is_plain and bool(case.payload))

    def _case(self) -> Case:
        draw = self.random.random()
        if draw < 0.02:
            return Case(self.random.choice(_NOISE))
        if draw < 0.05:
            return Case(self.random.randbytes(self.random.randrange(1, 200)))
        return self._commands.case()

    def connection(self) -> list[bytes]:
        """Bytes for a raw TCP connection, in pieces: cut off or bent anywhere, before or after the handshake."""
        chance = self.random
        handshake = GREETING + ready(
            chance.choice((b"DEALER", b"REQ")), chance.randbytes(chance.choice((0, 0, 5, 255)))
        )
        match chance.randrange(10):
            case 0:
                return [chance.randbytes(chance.randrange(1, 400))]
            case 1 | 2:
                return [handshake[: chance.randrange(len(handshake))]]
            case 3 | 4:
                return [self._flipped(handshake), frame(b"{}")]
            case 5:
                odd = ready(chance.choice((b"ROUTER", b"PUB", b"SUB", b"XPUB", b"", b"x" * 90)))
                return [GREETING, odd, frame(b"{}")]
            case 6:
                flags = chance.choice((LONG, LONG | MORE, LONG | COMMAND, 0xFF))
                return [handshake, long_header(chance.choice(_SIZES), flags=flags), chance.randbytes(50)]
            case 7:
                size = chance.randrange(1, 5000)
                return [handshake, *(frame(b"u" * size, more=True) for _ in range(chance.randrange(1, 20)))]
            case 8:
                command = chance.choice((b"\x04PING\x00\x00", b"\x05ERROR\x03bad", b"\x05READY", b"\xff"))
                return [handshake, bytes([COMMAND, len(command)]), command, frame(self._case().payload)]
            case _:
                whole = frame(b"", more=True) + frame(self._case().payload)
                return [handshake, whole, whole[: chance.randrange(1, len(whole))]]

    def _flipped(self, data: bytes) -> bytes:
        flipped = bytearray(data)
        flipped[self.random.randrange(len(flipped))] ^= 1 << self.random.randrange(8)
        return bytes(flipped)
