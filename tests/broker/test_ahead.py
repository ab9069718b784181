"""What a busy device's worker is told of the model that comes next."""

from __future__ import annotations

from typing import Any

from room import Room, assigned, model, residency

from broker.core.events import SendWorker
from protocol.enums import ModelPrecision, Tier
from protocol.link import Prefetch
from protocol.records import ModelLoadConfiguration
from protocol.supervision import ChildExited

MODELS = [model("m"), model("n"), model("o")]


def told(effects: list[Any]) -> list[str]:
    """The models of the hints among these effects, "" for none."""
    found = [one.header for one in effects if isinstance(one, SendWorker) and isinstance(one.header, Prefetch)]
    return [hint.model.model_id if hint.model is not None else "" for hint in found]


def draw(room: Room, name: str, request_id: str, client: bytes = b"c1", **fields: Any) -> list[Any]:
    command = {"model_id": name, "prompt": "x", "device_id": "cpu:0", **fields}
    return room.send("generate", client, request_id=request_id, **command)


def room_of() -> Room:
    return Room(models=MODELS)


def test_the_next_model_is_told_once_while_another_command_runs() -> None:
    room = room_of()
    assert told(draw(room, "m", "a")) == []
    assert told(draw(room, "n", "b")) == ["n"]
    assert told(draw(room, "n", "c")) == []
    assert told(draw(room, "o", "d")) == []


def test_it_is_another_one_when_the_next_command_has_begun() -> None:
    room = room_of()
    (first,) = assigned(draw(room, "m", "a"))
    draw(room, "n", "b")
    draw(room, "o", "c")
    effects = room.finish(first)
    (second,) = assigned(effects)
    assert second.header.request_id == "b" and told(effects) == ["o"]
    assert told(room.finish(second)) == []


def test_a_command_that_is_withdrawn_takes_its_hint_back() -> None:
    room = room_of()
    draw(room, "m", "a")
    draw(room, "n", "b")
    assert told(room.send("cancel", request_id="x", target_request_id="b")) == [""]
    assert told(draw(room, "o", "c")) == ["o"]


def test_models_that_a_device_holds_need_no_reading() -> None:
    for tier, expected in ((Tier.VRAM, []), (Tier.RAM, []), (None, ["n"])):
        room = room_of()
        if tier is not None:
            room.holds("cpu:0", residency("n", tier))
        draw(room, "m", "a")
        assert told(draw(room, "n", "b")) == expected


def test_a_higher_priority_goes_before() -> None:
    room = room_of()
    draw(room, "m", "a")
    assert told(draw(room, "n", "b")) == ["n"]
    assert told(draw(room, "o", "c", b"c2", priority="High")) == ["o"]


def test_a_load_is_told_with_its_configuration() -> None:
    room = room_of()
    draw(room, "m", "a")
    fields = {"model_id": "n", "device_id": "cpu:0", "configuration": {"precision": "BFloat16"}}
    effects = room.send("load_model", request_id="b", **fields)
    (hint,) = [one.header for one in effects if isinstance(one, SendWorker) and isinstance(one.header, Prefetch)]
    assert hint.configuration == ModelLoadConfiguration(precision=ModelPrecision.BFloat16)


def test_what_reads_nothing_into_ram_is_not_told() -> None:
    for fields in ({"force": True}, {"cache_optimized": True}, {"coordination_mode": "ram_to_vram"}):
        room = room_of()
        draw(room, "m", "a")
        assert told(room.send("load_model", request_id="b", model_id="n", device_id="cpu:0", **fields)) == []
    room = room_of()
    draw(room, "m", "a")
    assert told(draw(room, "n", "b", load_if_needed=False)) == []


def test_a_new_worker_is_told_anew() -> None:
    room = room_of()
    (first,) = assigned(draw(room, "m", "a"))
    draw(room, "n", "b")
    room.handle(ChildExited(child="cpu:0", generation=1, reason="ended by SIGKILL", restarting=True))
    room.register("cpu:0", 2)
    running = room.core.context.fleet.devices["cpu:0"].running
    assert running is not None and first.header.request_id != running.request_id == "b"
    assert told(draw(room, "o", "c")) == ["o"]


def test_far_down_a_queue_nobody_looks() -> None:
    room = room_of()
    draw(room, "m", "a")
    for number in range(8):
        draw(room, "m", f"m{number}")
    assert told(draw(room, "n", "last")) == []
