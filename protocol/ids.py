"""Fresh ids: UUIDv7 (RFC 9562, section 5.7), which sort by the time they were made, and short ones for people."""

from __future__ import annotations

import os
import secrets
import time
import uuid

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"


def uuid7() -> str:
    """A UUIDv7 as text: 48 bits of milliseconds, the rest random."""
    milliseconds = time.time_ns() // 1_000_000
    value = (milliseconds << 80) | int.from_bytes(os.urandom(10))
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))


def short_id() -> str:
    """An id that people can read and type: ten of Crockford's base-32 digits, 50 random bits."""
    return "".join(secrets.choice(_DIGITS) for _ in range(10))
