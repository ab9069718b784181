"""What is published: topics, numbers without gaps, lives of commands."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from room import Room, assigned, model, published, residency

from broker.core.events import Effect, Publish, Subscribed, WorkerMessage
from protocol.enums import Tier
from protocol.errors import ErrorCode
from protocol.link import ModelChanged
from protocol.supervision import ChildExited


def draw(room: Room, request_id: str, **fields: Any) -> list[Effect]:
    return room.send("generate", request_id=request_id, **{"model_id": "m", "prompt": "x", **fields})


def payloads(effects: list[Effect], beginning: str) -> list[Any]:
    return [event.payload for event in published(effects, beginning)]


def test_a_commands_events_tell_its_life_and_end_with_its_outcome() -> None:
    room = Room(("cpu:0",))
    room.handle(Subscribed("job."))
    (running,) = assigned(draw(room, "r"))
    room.progress(running, 4)
    room.finish(running, code=ErrorCode.INFERENCE_FAILED)
    events = payloads(room.effects, "job.r")
    assert [event.job_state.value for event in events] == ["queued", "running", "running", "final"]
    assert [event.seq for event in events] == [1, 2, 3, 4]
    assert events[2].progress.step == 4
    assert (events[-1].success, events[-1].error.code) == (False, ErrorCode.INFERENCE_FAILED)
    assert {event.device_id for event in events} == {"cpu:0"}


def test_commands_have_no_events_once_nobody_listens() -> None:
    room = Room(("cpu:0",))
    room.handle(Subscribed("job."))
    room.handle(Subscribed("job.", begins=False))
    (running,) = assigned(draw(room, "r"))
    room.finish(running)
    assert not payloads(room.effects, "job.r")


def test_every_topic_counts_without_a_gap_whatever_happens() -> None:
    room = Room()
    for number in range(30):
        room.holds("cpu:0", residency("m"), used=number)
        for effect in assigned(draw(room, f"r{number}")):
            room.finish(effect)
        if number % 10 == 5:
            room.handle(
                ChildExited(child="cpu:0", generation=room.core.context.fleet.devices["cpu:0"].generation, reason="x")
            )
            room.register("cpu:0", generation=number)
        room.handle(Subscribed("telemetry." if number % 2 else ""))
        room.wait(0.3)
    numbers = defaultdict(list)
    for event in room.effects:
        if isinstance(event, Publish):
            numbers[event.topic].append(event.payload.seq)  # type: ignore[attr-defined]
    assert {"telemetry.cpu:0", "worker.cpu:0", "model.cpu:0.m", "queue"} <= set(numbers)
    for topic, seen in numbers.items():
        assert seen == list(range(1, len(seen) + 1)), topic


def test_every_event_carries_the_epoch() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    assert {event.payload.epoch for event in published(room.effects)} == {"epoch-1"}  # type: ignore[attr-defined]


def test_a_newcomer_is_told_the_latest_of_each_matching_state_topic() -> None:
    room = Room()
    room.holds("cpu:0", used=1)
    room.holds("cpu:0", used=2)
    room.holds("cpu:1", used=3)
    (event,) = published(room.handle(Subscribed("telemetry.cpu:0")))
    assert event.payload.memory.used == 2  # type: ignore[attr-defined]
    assert len(published(room.handle(Subscribed("msgpack.telemetry.")))) == 2
    assert published(room.handle(Subscribed("job."))) == []
    assert published(room.handle(Subscribed("telemetry.cpu:07"))) == []
    topics = {event.topic.partition(".")[0] for event in published(room.handle(Subscribed("")))}
    assert topics <= {"telemetry", "worker", "model", "queue"}


def test_worker_events_follow_its_states() -> None:
    room = Room(("cpu:0",))
    draw(room, "r")
    room.handle(ChildExited(child="cpu:0", generation=1, reason="ended by SIGKILL"))
    (running,) = payloads(room.effects, "worker.")[-1:]
    assert (running.state.value, running.reason) == ("lost", "ended by SIGKILL")


def test_models_lost_with_their_worker_are_told() -> None:
    room = Room(("cpu:0",))
    room.holds("cpu:0", residency("m"))
    (event,) = payloads(room.handle(ChildExited(child="cpu:0", generation=1, reason="x")), "model.cpu:0.m")
    assert (event.tier, event.from_tier, event.reason) == (Tier.DISK, Tier.VRAM, "recycled")


def test_model_changes_are_passed_on() -> None:
    room = Room(("cpu:0",))
    change = ModelChanged(model_id="a.b", tier=Tier.VRAM, from_tier=Tier.DISK, bytes=5, reason="loaded")
    (event,) = published(room.handle(WorkerMessage(room.worker("cpu:0"), change)))
    assert event.topic == "model.cpu:0.a.b"


def test_queue_events_count_what_waits() -> None:
    room = Room(("cpu:0",))
    draw(room, "a")
    draw(room, "b", priority="High")
    draw(room, "c")
    event = payloads(room.wait(0.5), "queue")[-1]
    assert (event.depth, event.in_flight) == (2, 1)
    assert (event.by_device, event.by_priority) == ({"cpu:0": 2}, {"High": 1, "Normal": 1})


def test_catalogue_events_name_the_change() -> None:
    room = Room()
    room.new()
    room.entries(model("m", revision=4), model("p"), removed=["n"])
    events = [(event.model_id, event.change) for event in payloads(room.new(), "catalog")]
    assert events == [("m", "updated"), ("p", "added"), ("n", "removed")]
