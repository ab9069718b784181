"""A worker notices memory that does not come back once nothing is held."""

from __future__ import annotations

from protocol import commands as c
from protocol.replies import LoadModelReply, UnloadModelReply
from tests.worker.bench import Bench
from worker.devices.virtual import VirtualDevice
from worker.leaks import LeakMeter

ONE = "one.vmodel.json"


def leaked(bench: Bench) -> int:
    bench.engine.look_for_leaks()
    return bench.engine.report().leaked_bytes


def test_an_unload_that_gives_everything_back_is_no_leak(virtual: Bench) -> None:
    bench_meter(virtual, tolerance_bytes=0)
    virtual.reply(LoadModelReply, c.LoadModel(model_id=ONE), ONE)
    assert leaked(virtual) == 0
    virtual.reply(UnloadModelReply, c.UnloadModel(model_id=ONE), ONE)
    assert leaked(virtual) == 0


def test_what_stays_in_use_while_nothing_is_held_is_reported(virtual: Bench) -> None:
    bench_meter(virtual, tolerance_bytes=100)
    device = virtual.engine.device
    assert isinstance(device, VirtualDevice)
    virtual.reply(LoadModelReply, c.LoadModel(model_id=ONE), ONE)
    device.ledger.take(300)
    assert leaked(virtual) == 0, "a model is held: nothing can be told"
    virtual.reply(UnloadModelReply, c.UnloadModel(model_id=ONE), ONE)
    assert leaked(virtual) == 300
    device.ledger.give(250)
    assert leaked(virtual) == 0


def bench_meter(bench: Bench, tolerance_bytes: int) -> None:
    """A meter whose tolerance suits profiles of a few bytes."""
    bench.engine.leaks = LeakMeter(bench.engine.device, tolerance_bytes)
    bench.engine.leaks.start()
