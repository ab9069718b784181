"""Request ids made by the client: UUIDv7, so that they sort by the time at which they were made."""

from __future__ import annotations

import os
import time
import uuid


def request_id() -> str:
    """A UUIDv7 as text (RFC 9562, section 5.7): 48 bits of milliseconds, 74 of randomness."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return str(uuid.UUID(int=value))
