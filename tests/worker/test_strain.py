"""A host that is short of memory: the level, and what a worker does about it."""

from __future__ import annotations

import pytest

from protocol import commands as c
from protocol.enums import PressureLevel, Tier
from protocol.link import ModelChanged, Prefetch
from protocol.replies import LoadModelReply
from settings import host as machine
from tests.worker.bench import Bench, model_ref
from tests.worker.conftest import Clock
from worker import host
from worker.prefetch import Full, Watch
from worker.strain import LOOK_SECONDS, HostStrain, is_high

GIB = 1 << 30
ONE, TWO = "one.vmodel.json", "two.vmodel.json"


class Host:
    """A host of 100 GiB; `available` of them can be had, tasks stall for `stalled` percent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.available, self.stalled = 50 * GIB, 0.0
        monkeypatch.setattr(machine, "memory_bytes", lambda: 100 * GIB)
        monkeypatch.setattr(machine, "available_bytes", lambda: self.available)
        monkeypatch.setattr(host, "stalled_percent", lambda: self.stalled)


@pytest.fixture
def hosted(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


@pytest.mark.parametrize(
    ("available", "stalled", "level"),
    [
        (21, 0.0, PressureLevel.NORMAL),
        (20, 0.0, PressureLevel.ELEVATED),
        (11, 0.0, PressureLevel.ELEVATED),
        (10, 0.0, PressureLevel.HIGH),
        (5, 0.0, PressureLevel.CRITICAL),
        (50, 90.0, PressureLevel.NORMAL),
        (20, 9.9, PressureLevel.ELEVATED),
        (20, 10.0, PressureLevel.HIGH),
        (20, 39.9, PressureLevel.HIGH),
        (20, 40.0, PressureLevel.CRITICAL),
        (10, 40.0, PressureLevel.CRITICAL),
    ],
)
def test_levels(hosted: Host, available: int, stalled: float, level: PressureLevel) -> None:
    hosted.available, hosted.stalled = available * GIB, stalled
    assert HostStrain(Clock()).level is level


def test_it_is_looked_at_now_and_then_and_falls_with_hysteresis(hosted: Host, clock: Clock) -> None:
    strain = HostStrain(clock)
    hosted.available = 8 * GIB
    assert is_high(strain.level)
    hosted.available = 90 * GIB
    assert is_high(strain.level)
    clock.now += LOOK_SECONDS
    assert is_high(strain.level)
    clock.now += 6
    assert not is_high(strain.level)


def test_a_host_that_tells_nothing_is_not_strained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_bytes", lambda: 0)
    monkeypatch.setattr(host, "stalled_percent", lambda: None)
    assert HostStrain(Clock()).level is PressureLevel.NORMAL


def in_ram(bench: Bench, *names: str) -> None:
    for name in names:
        bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
        bench.run(c.UnloadModel(model_id=name), name)


def tier(bench: Bench, name: str) -> Tier | None:
    held = bench.engine.cache.get(name)
    return None if held is None else held.tier


def test_models_of_the_ram_tier_leave_a_strained_host_one_after_the_other(
    virtual: Bench, hosted: Host, clock: Clock
) -> None:
    in_ram(virtual, TWO, ONE)
    assert (tier(virtual, TWO), tier(virtual, ONE)) == (Tier.RAM, Tier.RAM)
    hosted.available = 4 * GIB
    clock.now += 1
    assert virtual.engine.idle()
    assert (tier(virtual, TWO), tier(virtual, ONE)) == (None, Tier.RAM)
    moved = [one for one in virtual.told if isinstance(one, ModelChanged)][-1]
    assert moved.model_id == TWO and "short of memory" in moved.reason
    assert virtual.engine.idle() and tier(virtual, ONE) is None
    assert not virtual.engine.idle() and virtual.engine.ram.used_bytes == 0


def test_models_on_the_device_stay(virtual: Bench, hosted: Host, clock: Clock) -> None:
    virtual.reply(LoadModelReply, c.LoadModel(model_id=ONE), ONE)
    hosted.available = 1 * GIB
    clock.now += 1
    virtual.engine.idle()
    assert tier(virtual, ONE) is Tier.VRAM


def test_nothing_is_read_ahead_on_a_strained_host_or_device(virtual: Bench, hosted: Host, clock: Clock) -> None:
    wish = Prefetch(model=model_ref(virtual.root, ONE))
    watch = Watch(lambda: None, lambda: None)
    virtual.engine._read_ahead(wish, watch)
    assert virtual.engine.ram.used_bytes == 1000
    wish = Prefetch(model=model_ref(virtual.root, TWO))
    hosted.available = 4 * GIB
    clock.now += 1
    with pytest.raises(Full):
        virtual.engine._read_ahead(wish, watch)
    hosted.available = 90 * GIB
    clock.now += 1
    virtual.engine.idle()
    clock.now += 20
    virtual.engine.idle()
    virtual.engine._read_ahead(wish, watch)
    virtual.engine.sampler.note_oom()
    with pytest.raises(Full):
        virtual.engine._read_ahead(Prefetch(model=model_ref(virtual.root, "five.vmodel.json")), watch)
