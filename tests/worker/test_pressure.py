"""Levels of memory pressure and their hysteresis."""

from __future__ import annotations

import pytest

from protocol.enums import PressureLevel
from tests.worker.conftest import Clock
from worker.pressure import PressureMeter


def level(meter: PressureMeter, used: int, reclaimable: int = 0) -> PressureLevel:
    return meter.update(used, reclaimable, 1000).level


@pytest.mark.parametrize(
    ("used", "expected"),
    [(799, "normal"), (800, "elevated"), (899, "elevated"), (900, "high"), (949, "high"), (950, "critical")],
)
def test_levels_rise_at_once_at_their_thresholds(clock: Clock, used: int, expected: str) -> None:
    assert level(PressureMeter(clock), used) is PressureLevel(expected)


def test_a_level_falls_only_after_five_points_and_five_seconds(clock: Clock) -> None:
    meter = PressureMeter(clock)
    assert level(meter, 900) is PressureLevel.HIGH
    clock.now += 60
    assert level(meter, 851) is PressureLevel.HIGH
    assert level(meter, 849) is PressureLevel.HIGH
    clock.now += 4.9
    assert level(meter, 849) is PressureLevel.HIGH
    clock.now += 0.1
    assert level(meter, 849) is PressureLevel.ELEVATED


def test_a_return_above_the_margin_starts_the_five_seconds_again(clock: Clock) -> None:
    meter = PressureMeter(clock)
    level(meter, 960)
    level(meter, 100)
    clock.now += 4
    level(meter, 940)
    clock.now += 4
    assert level(meter, 100) is PressureLevel.CRITICAL
    clock.now += 5
    assert level(meter, 100) is PressureLevel.NORMAL


def test_running_out_of_memory_is_critical_for_ten_seconds(clock: Clock) -> None:
    meter = PressureMeter(clock)
    meter.note_oom()
    assert level(meter, 10) is PressureLevel.CRITICAL
    clock.now += 9.9
    assert level(meter, 10) is PressureLevel.CRITICAL
    clock.now += 0.1
    assert level(meter, 10) is PressureLevel.CRITICAL
    clock.now += 5
    assert level(meter, 10) is PressureLevel.NORMAL


def test_a_cache_full_of_idle_models_is_no_pressure_and_the_reserve_is(clock: Clock) -> None:
    full = PressureMeter(clock).update(1000, 1000, 1000)
    assert (full.level, full.utilization, full.pressure) == (PressureLevel.NORMAL, 1.0, 0.0)
    assert PressureMeter(clock, reserve_bytes=850).update(0, 0, 1000).level is PressureLevel.ELEVATED
