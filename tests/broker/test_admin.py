"""The administrator's commands: one device drained, resumed, its worker replaced."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from room import Room, answer, assigned, code, ids, replies, residency

from broker.core.core import Core
from broker.core.events import Effect, Publish, TellSupervisor
from broker.core.finals import MemoryStore
from protocol.enums import DeviceState
from protocol.events import WorkerEvent
from protocol.supervision import ChildExited, ChildStarted, DrainChild, RestartChild

ADMIN = ("drain_device", "resume_device", "restart_worker")


def told(effects: list[Effect]) -> list[DeviceState]:
    """The states that are published of workers."""
    events = [effect.payload for effect in effects if isinstance(effect, Publish)]
    return [event.state for event in events if isinstance(event, WorkerEvent)]


def room_of(*devices: str) -> Room:
    """A room whose configuration allows administration."""
    room = Room(devices or ("cpu:0", "cpu:1"))
    context = room.core.context
    context.spec = msgspec.structs.replace(context.spec, admin=True)
    return room


def draw(room: Room, request_id: str, **fields: Any) -> list[Any]:
    return room.send("generate", request_id=request_id, **{"model_id": "m", "prompt": "x", **fields})


def lines(effects: list[Any], kind: type) -> list[Any]:
    return [e.line for e in effects if isinstance(e, TellSupervisor) and isinstance(e.line, kind)]


def state(room: Room, index: int = 0) -> str:
    return str(room.ask("list_devices")["devices"][index]["state"])


@pytest.mark.parametrize("action", ADMIN)
def test_administration_is_off_unless_configured(action: str) -> None:
    reply = Room().ask(action, device_id="cpu:0")
    assert code(reply) == "UNAUTHORIZED"
    assert "admin = true" in reply["message"]


@pytest.mark.parametrize("action", ADMIN)
def test_a_device_has_to_be_named_and_known(action: str) -> None:
    room = room_of()
    assert code(room.ask(action)) == "MISSING_PARAMETER"
    assert code(room.ask(action, device_id="auto")) == "MISSING_PARAMETER"
    assert code(room.ask(action, device_id="cuda:7")) == "DEVICE_NOT_FOUND"


def test_a_drained_device_takes_nothing_new_and_others_do() -> None:
    room = room_of()
    room.holds("cpu:0", residency("m"))
    reply = room.ask("drain_device", device_id="UUID-CPU:0")
    assert (reply["device_id"], reply["device_state"], state(room)) == ("cpu:0", "drained", "drained")
    (elsewhere,) = assigned(draw(room, "r"))
    assert elsewhere.worker == room.worker("cpu:1")
    assert code(answer(draw(room, "named", device_id="cpu:0"))) == "DRAINING"
    assert room.ask("list_devices")["warnings"] == ["cpu:0 is drained: an administrator drained it"]


def test_draining_ends_what_runs_and_moves_what_may_go_elsewhere() -> None:
    room = room_of()
    room.holds("cpu:0", residency("m"))
    (running,) = assigned(draw(room, "running"))
    draw(room, "free")
    draw(room, "bound", device_id="cpu:0")
    assert running.worker == room.worker("cpu:0")
    room.new()
    room.send("drain_device", device_id="cpu:0")
    moved = room.new()
    assert ids(moved) == ["free"]
    assert assigned(moved)[0].worker == room.worker("cpu:1")
    assert state(room) == "draining"
    effects = room.finish(running)
    assert ids(effects) == ["bound"]
    assert state(room) == "draining"
    room.finish(assigned(effects)[0])
    assert state(room) == "drained"


def test_what_a_draining_device_waits_for_is_listed_and_its_end_is_told() -> None:
    room = room_of("cpu:0")
    (running,) = assigned(draw(room, "running"))
    draw(room, "waits", device_id="cpu:0")
    room.send("drain_device", device_id="cpu:0")
    assert [waits["request_id"] for waits in room.ask("list_devices")["waiting"]] == ["waits"]
    room.send("cancel", target_request_id="waits")
    assert room.ask("list_devices")["waiting"] == []
    assert told(room.finish(running)) == [DeviceState.DRAINED]


def test_a_device_whose_work_went_while_it_had_no_worker_tells_that_it_is_drained() -> None:
    room = room_of("cpu:0")
    room.handle(ChildExited(child="cpu:0", generation=1, reason="ended by SIGKILL"))
    draw(room, "waits", device_id="cpu:0")
    room.send("drain_device", device_id="cpu:0")
    room.register("cpu:0", generation=2, ready=False)
    assert state(room) == "draining"
    room.send("cancel", target_request_id="waits")
    room.new()
    room.wait(2.0)
    assert told(room.new()) == [DeviceState.DRAINED]


def test_draining_the_only_device_ends_all_that_waits_there() -> None:
    room = room_of("cpu:0")
    (running,) = assigned(draw(room, "running"))
    draw(room, "queued")
    room.send("drain_device", device_id="cpu:0")
    assert ids(room.finish(running)) == ["queued"]
    refused = answer(draw(room, "new"))
    assert (code(refused), refused["error"]["retryable"]) == ("DEVICE_UNAVAILABLE", True)


def test_a_model_can_be_unloaded_from_a_drained_device() -> None:
    room = room_of()
    room.holds("cpu:0", residency("m"))
    room.send("drain_device", device_id="cpu:0")
    assert ids(room.send("unload_model", request_id="u", model_id="m", device_id="cpu:0")) == ["u"]


def test_a_resumed_device_takes_work_again() -> None:
    room = room_of("cpu:0")
    room.send("drain_device", device_id="cpu:0")
    assert room.ask("resume_device", device_id="cpu:0")["device_state"] == "ready"
    assert ids(draw(room, "r")) == ["r"]


def test_a_broker_that_comes_back_knows_which_devices_are_drained() -> None:
    room = room_of("cpu:0")
    effects = room.send("drain_device", device_id="cpu:0")
    assert lines(effects, DrainChild) == [DrainChild(child="cpu:0", drained=True)]
    spec = room.core.context.spec
    spec = msgspec.structs.replace(spec, devices=[msgspec.structs.replace(s, drained=True) for s in spec.devices])
    room.core = Core(
        spec,
        "epoch-2",
        clock=lambda: room.now,
        wall=room.core.context.wall,
        new_id=room.core.context.new_id,
        store=MemoryStore(),
    )
    room.register("cpu:0")
    assert state(room) == "drained"


def test_a_restart_waits_for_what_runs_and_what_waits_gets_the_fresh_worker() -> None:
    room = room_of("cpu:0")
    (running,) = assigned(draw(room, "running"))
    draw(room, "queued")
    effects = room.send("restart_worker", device_id="cpu:0")
    assert lines(effects, RestartChild) == []
    assert answer(effects)["device_state"] == "draining"
    effects = room.finish(running)
    assert [line.child for line in lines(effects, RestartChild)] == ["cpu:0"]
    assert ids(effects) == []
    room.handle(ChildExited(child="cpu:0", generation=1, reason="recycled: restarted by an administrator"))
    room.handle(ChildStarted(child="cpu:0", generation=2, pid=9, restarts=1))
    room.new()
    room.register("cpu:0", generation=2)
    assert ids(room.new()) == ["queued"]
    assert state(room) == "busy"


def test_a_forced_restart_loses_what_runs_and_blames_nobody() -> None:
    room = room_of("cpu:0")
    for generation in (1, 2, 3):
        draw(room, f"r{generation}")
        effects = room.send("restart_worker", device_id="cpu:0", force=True)
        assert len(lines(effects, RestartChild)) == 1
        effects = room.handle(ChildExited(child="cpu:0", generation=generation, reason="restarted"))
        (lost,) = replies(effects)
        assert (code(lost), lost["error"]["retryable"]) == ("WORKER_LOST", True)
        room.register("cpu:0", generation=generation + 1)


@pytest.mark.parametrize("action", ["resume_device", "restart_worker"])
def test_an_administrator_closes_the_breaker_of_a_disabled_device(action: str) -> None:
    room = room_of("cpu:0")
    room.handle(ChildExited(child="cpu:0", generation=1, reason="it died 8 times", restarting=False, restarts=8))
    assert state(room) == "disabled"
    assert room.ask("list_devices")["warnings"] == ["cpu:0 is disabled: it died 8 times"]
    assert room.ask("list_devices")["devices"][0]["restarts"] == 8
    effects = room.send(action, device_id="cpu:0")
    assert [line.child for line in lines(effects, RestartChild)] == ["cpu:0"]
    room.handle(ChildStarted(child="cpu:0", generation=2, pid=9, restarts=8))
    room.register("cpu:0", generation=2)
    assert state(room) == "ready"
    assert room.ask("list_devices")["warnings"] == []
