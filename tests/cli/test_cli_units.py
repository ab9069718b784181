"""Numbers as people read and write them."""

from __future__ import annotations

import pytest

from cli.units import duration, seconds_of, sides_of, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (3 << 29, "1.5 GiB"),
        (200 << 20, "200 MiB"),
        (-(1 << 20), "-1.0 MiB"),
    ],
)
def test_bytes_are_in_binary_units(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0.416, "0.42 ms"), (38.2, "38 ms"), (1250, "1.25 s"), (200_000, "3 min 20 s"), (7_500_000, "2 h 5 min")],
)
def test_times_are_short(ms: float, text: str) -> None:
    assert duration(ms) == text


def test_durations_are_read_and_nonsense_is_refused() -> None:
    assert [seconds_of(text) for text in ("90", "90s", "5m", "1.5h", "250ms", "0", "forever")] == [
        90,
        90,
        300,
        5400,
        0.25,
        0,
        -1,
    ]
    for text in ("", "soon", "-5", "5 parsecs"):
        with pytest.raises(ValueError, match="no duration"):
            seconds_of(text)


def test_sizes_of_pictures_are_read() -> None:
    assert sides_of("512x768") == (512, 768)
    with pytest.raises(ValueError, match="no size"):
        sides_of("512")
