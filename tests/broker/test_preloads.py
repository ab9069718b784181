"""Models that are loaded without anybody asking: when, where, once, and what becomes of those that cannot be."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from room import Room, assigned, model, residency

from broker.core.events import Log
from protocol import commands as c
from protocol.codec import decode_command
from protocol.enums import LoadingStrategy, LoadPriority, ModelPrecision, PressureLevel
from protocol.errors import ErrorCode
from protocol.supervision import ChildExited, Preload


def room_of(*preload: Preload, **fields: Any) -> Room:
    return Room(preload=preload, silence_ms=100_000_000, **fields)


def begun(effects: list[Any]) -> list[tuple[str, str]]:
    """(model, device) of the loads that were assigned."""
    return [(one.header.model.model_id, one.header.device_id) for one in assigned(effects)]


def said(effects: list[Any]) -> list[Log]:
    return [one for one in effects if isinstance(one, Log) and one.level == "warning"]


def die(room: Room, device: str, generation: int) -> None:
    """A worker dies, and its successor registers."""
    room.handle(ChildExited(child=device, generation=generation, reason="killed"))
    room.register(device, generation + 1)


def test_each_is_loaded_once_where_it_is_wanted_with_what_is_wanted() -> None:
    wish = Preload(
        model="m",
        device="cpu:1",
        precision=ModelPrecision.Float32,
        loading_strategy=LoadingStrategy.LAZY,
        priority=LoadPriority.High,
        keep_alive=60.0,
        pin=True,
    )
    room = room_of(wish, Preload(model="n", device="all"))
    loads = assigned(room.wait(1.1))
    assert begun(loads) == [("m", "cpu:1"), ("n", "cpu:0")]
    command = decode_command(loads[0].body[0]).command
    assert isinstance(command, c.LoadModel) and command.configuration is not None
    assert command.configuration.precision is ModelPrecision.Float32
    assert (command.loading_strategy, command.priority) == (LoadingStrategy.LAZY, LoadPriority.High)
    assert (command.keep_alive, command.pin) == (60.0, True)
    assert begun(room.finish(loads[0])) == [("n", "cpu:1")]
    room.finish(loads[1])
    assert begun(room.wait(60)) == []


def test_nothing_begins_before_the_catalogue_is_known() -> None:
    room = room_of(Preload(model="m"), models=None)
    assert begun(room.wait(5)) == []
    room.register_catalog()
    room.entries(model("m"), complete=True)
    assert begun(room.wait(1.1)) == [("m", "cpu:0")]


def test_nothing_begins_before_the_survivors_of_a_broker_have_spoken() -> None:
    room = room_of(Preload(model="m", device="cpu:0"), connected=False, survivors=["cpu:0", "cpu:1"])
    room.register("cpu:0")
    assert begun(room.wait(2)) == []
    room.register("cpu:1")
    assert begun(room.wait(1.1)) == [("m", "cpu:0")]


def test_it_comes_back_after_its_worker_died_and_not_after_an_unload() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    (load,) = assigned(room.wait(1.1))
    room.finish(load)
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:0")  # somebody unloaded it
    assert begun(room.wait(60)) == []
    die(room, "cpu:0", 1)
    assert begun(room.wait(1.1)) == [("m", "cpu:0")]


def test_one_that_may_be_anywhere_is_content_with_another_device_that_holds_it() -> None:
    room = room_of(Preload(model="m"))
    (load,) = assigned(room.wait(1.1))
    room.finish(load)
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:1", residency("m"))
    die(room, "cpu:0", 1)
    assert begun(room.wait(5)) == []
    die(room, "cpu:1", 1)
    assert begun(room.wait(1.1)) == [("m", "cpu:0")]


def test_a_worker_that_dies_of_it_is_tried_again_until_the_load_is_quarantined() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    loads = 0
    for generation in range(1, 5):
        loads += len(begun(room.wait(400)))
        die(room, "cpu:0", generation)
    assert loads == 2
    assert begun(room.wait(2000)) == []


def test_one_that_fails_for_now_is_tried_again_ever_more_rarely_and_told_of_once() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    tries: list[float] = []
    for _ in range(900):
        effects = room.wait(1)
        for load in assigned(effects):
            tries.append(room.now)
            room.finish(load, code=ErrorCode.INSUFFICIENT_MEMORY)
    waits = [round(after - before) for before, after in itertools.pairwise(tries)]
    assert waits[:3] == [5, 10, 20] and max(waits) <= 301
    assert len([one for one in said(room.effects) if "could not be preloaded" in one.event]) == 1


def test_one_that_is_refused_for_good_is_tried_again_once_its_file_is_another() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    (load,) = assigned(room.wait(1.1))
    room.finish(load, code=ErrorCode.MODEL_CORRUPTED)
    assert begun(room.wait(2000)) == []
    room.entries(msgspec.structs.replace(model("m"), revision=2))
    assert begun(room.wait(1.1)) == [("m", "cpu:0")]


def test_a_model_or_a_device_that_there_is_not_is_named_and_keeps_nobody() -> None:
    room = room_of(Preload(model="mm"), Preload(model="m", device="cpu:7"), Preload(model="n", device="cpu:0"))
    effects = room.wait(30)
    assert begun(effects) == [("n", "cpu:0")]
    named = [(one.fields["model"], one.fields["device"]) for one in said(effects)]
    assert named == [("mm", "any"), ("m", "cpu:7")]
    room.entries(model("mm"))
    assert begun(room.wait(1.1)) == [("mm", "cpu:1")]


def test_a_clients_equal_load_neither_follows_nor_disturbs_it() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    (load,) = assigned(room.wait(1.1))
    room.send("load_model", model_id="m", device_id="cpu:0", request_id="mine")
    (second,) = assigned(room.finish(load))
    assert second.header.request_id == "mine"
    room.finish(second)
    assert room.core.context.coalescing._leaders == {} and len(room.core.context.jobs) == 0


def test_draining_begins_none() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    room.core.context.draining = True
    assert begun(room.wait(5)) == []


def test_a_device_short_of_memory_gets_none_until_it_has_some() -> None:
    room = room_of(Preload(model="m", device="cpu:0"))
    room.holds("cpu:0")
    device = room.core.context.fleet.devices["cpu:0"]
    calm = device.telemetry
    assert calm is not None
    pressure = msgspec.structs.replace(calm.memory_pressure, level=PressureLevel.HIGH)
    device.telemetry = msgspec.structs.replace(calm, memory_pressure=pressure)
    assert begun(room.wait(5)) == []
    device.telemetry = calm
    assert begun(room.wait(1.1)) == [("m", "cpu:0")]
