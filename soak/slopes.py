"""Does it grow? Least squares over the calm moments of a curve, with the interval in which the slope lies. Pure.

What a process holds goes up and down with its work; what it holds when it is calmest, of every window, goes up only
when something is not given back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

WINDOW_SECONDS = 15.0
SETTLING_SHARE = 0.25
"""Of a curve's time, in which caches and pools fill that never grow again: it is not looked at."""

LEAST_WINDOWS = 6

T_95 = (
    *(12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23),
    *(2.20, 2.18, 2.16, 2.14, 2.13, 2.12, 2.11, 2.10, 2.09),
)
"""Student's t for 95 %, two-sided, by degrees of freedom from 1 on; beyond them 2.0 is close enough."""


class Slope(Struct, frozen=True, kw_only=True):
    """What a minute adds, with the bounds between which it lies with 95 %; over so many minutes, so many windows."""

    per_minute: float
    low: float
    high: float
    minutes: float
    windows: int


def calm(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The least value of each window, settling left out: (seconds, value) in and out."""
    if not samples:
        return []
    first, last = samples[0][0], samples[-1][0]
    begin = first + SETTLING_SHARE * (last - first)
    least: dict[int, tuple[float, float]] = {}
    for at, value in samples:
        if at < begin:
            continue
        window = int((at - begin) / WINDOW_SECONDS)
        if window not in least or value < least[window][1]:
            least[window] = (at, value)
    return [least[window] for window in sorted(least)]


def slope(samples: Sequence[tuple[float, float]]) -> Slope | None:
    """The slope of a curve's calm moments; None where there are too few to say.

    Ordinary least squares; the interval is that of the slope's standard error with Student's t.
    """
    points = calm(samples)
    count = len(points)
    if count < LEAST_WINDOWS:
        return None
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    rise = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    rest = sum((y - mean_y - rise * (x - mean_x)) ** 2 for x, y in points)
    error = math.sqrt(rest / (count - 2) / spread)
    reach = student(count - 2) * error
    return Slope(
        per_minute=rise * 60,
        low=(rise - reach) * 60,
        high=(rise + reach) * 60,
        minutes=(points[-1][0] - points[0][0]) / 60,
        windows=count,
    )


def student(freedom: int) -> float:
    """Student's t for 95 %, two-sided."""
    return T_95[freedom - 1] if freedom <= len(T_95) else 2.0 + 1.7 / freedom
