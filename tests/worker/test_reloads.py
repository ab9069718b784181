"""What a reload would take: measured of the model, else by the device's rate, in the tier that it would fall to."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from protocol import commands as c
from protocol.enums import LoadSource, Tier
from protocol.replies import LoadModelReply
from ramtier.tier import PrivateTier
from tests.worker.bench import Bench, worker_spec
from tests.worker.conftest import Clock, write_profile
from worker.reloads import RATES, Reloads


def resident(model_id: str = "m", *, keeps: bool = True, copied: bool = False, size: int = 1000) -> Any:
    file = SimpleNamespace(profile=None)
    return SimpleNamespace(model_id=model_id, file=file, keeps_ram_copy=keeps, copied=copied, bytes=size)


def test_it_is_for_the_tier_that_the_model_would_fall_to() -> None:
    reloads = Reloads(PrivateTier(1000))
    reloads.note(resident(), LoadSource.DISK, 80.0)
    reloads.note(resident(), LoadSource.RAM, 8.0)
    assert reloads.expected_ms(resident()) == 8.0
    assert reloads.expected_ms(resident(keeps=False)) == 80.0
    larger = resident(size=1001)
    assert reloads.expected_ms(larger) == 80.0, "the RAM tier cannot hold it"
    assert reloads.expected_ms(resident(size=1001, copied=True)) == 8.0


def test_what_was_never_loaded_goes_by_the_rate_of_the_device() -> None:
    reloads = Reloads(PrivateTier(0))
    assert reloads.expected_ms(resident(size=5000)) == pytest.approx(5000 / RATES[LoadSource.DISK])
    reloads.note(resident(size=1000), LoadSource.DISK, 10.0)
    assert reloads.expected_ms(resident("other", size=5000)) == pytest.approx(50.0)


def test_old_loads_are_forgotten_and_a_use_is_no_load() -> None:
    reloads = Reloads(PrivateTier(0))
    for load_ms in (1000.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        reloads.note(resident(), LoadSource.DISK, load_ms)
    reloads.note(resident(), LoadSource.VRAM, 77.0)
    assert reloads.expected_ms(resident()) == 1.0


def test_the_model_that_comes_back_soonest_for_its_bytes_leaves(tmp_path_factory: Any) -> None:
    root = tmp_path_factory.mktemp("profiles")
    write_profile(root, "dear", 1000, load_ms=100)
    write_profile(root, "cheap", 1000, load_ms=10)
    write_profile(root, "next", 1500, load_ms=1)
    clock = Clock()
    bench = Bench(root, worker_spec(root, "virtual:0", budget_bytes=2500, ram_budget_bytes=0), clock)
    for name in ("dear", "cheap", "next"):
        clock.now += 1
        bench.reply(LoadModelReply, c.LoadModel(model_id=f"{name}.vmodel.json"), f"{name}.vmodel.json")
    held = {one.model_id: one for one in bench.engine.cache.listing() if one.tier is Tier.VRAM}
    assert held.keys() == {"dear.vmodel.json", "next.vmodel.json"}
    assert held["dear.vmodel.json"].reload_ms == 100.0
