"""Numbers for people, and the other way: bytes, times, sizes of pictures."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)\s*([a-z]*)$")
_SIZE = re.compile(r"^(\d+)\s*[x*]\s*(\d+)$")


def size(count: int) -> str:
    """Bytes in the largest binary unit that they fill: `1.5 GiB`."""
    value, unit = float(count), _UNITS[0]
    for unit in _UNITS:
        if abs(value) < 1024 or unit == _UNITS[-1]:
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or abs(value) >= 100 else f"{value:.1f} {unit}"


def duration(ms: float) -> str:
    """Milliseconds as `0.42 ms`, `38 ms`, `1.25 s`, `3 min 20 s` or `2 h 5 min`."""
    if ms == 0:
        return "0 ms"
    if ms < 1000:
        return f"{ms:.2f} ms" if ms < 1 else f"{ms:.1f} ms" if ms < 10 else f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def ago(moment: datetime | None) -> str:
    """How long ago a moment was, from this machine's clock."""
    if moment is None:
        return "-"
    seconds = max((datetime.now(UTC) - moment).total_seconds(), 0.0)
    return "now" if seconds < 1 else f"{duration(float(int(seconds)) * 1000).replace('.00 s', ' s')} ago"


def seconds_of(text: str) -> float:
    """Seconds of `90`, `90s`, `5m`, `1.5h`, `2d`; `forever` and `-1` are -1. Raises ValueError."""
    word = text.strip().lower()
    if word in ("forever", "-1"):
        return -1.0
    match = _DURATION.match(word)
    if match is None or match[2] not in _SECONDS:
        raise ValueError(f"'{text}' is no duration: expected such as 90, 90s, 5m, 1.5h or forever")
    return float(match[1]) * _SECONDS[match[2]]


def sides_of(text: str) -> tuple[int, int]:
    """Width and height of `512x768`. Raises ValueError."""
    match = _SIZE.match(text.strip().lower())
    if match is None:
        raise ValueError(f"'{text}' is no size: expected such as 512x768")
    return int(match[1]), int(match[2])
