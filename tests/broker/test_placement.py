"""Where commands go: what waits, what is where, what it would cost to bring it; and what is refused for certain."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
from room import VRAM, Room, answer, assigned, code, ids, model, residency, telemetry

from broker.core import placement
from broker.core.events import Remember, WorkerMessage
from broker.core.fleet import Device, Fleet
from broker.core.pool import ABSENT, Pool, level_of
from protocol.enums import DeviceKind, LoadSource, PressureLevel, ReplyState, Tier
from protocol.link import Assign, JobUpdate, ProfileFigures, Report, RunFacts
from protocol.supervision import ChildExited, DeviceSlot, Drain
from protocol.telemetry import ModelResidency

GENERATE = {"action": "generate", "prompt": "a cat"}


def profile(name: str, *, size_bytes: int = 1000, load_ms: float = 1000, step_ms: float = 50, peak: int = 0) -> Any:
    figures = ProfileFigures(load_ms=load_ms, step_ms=step_ms, peak_bytes=peak or size_bytes)
    return model(name, path=f"/models/{name}.vmodel.json", size_bytes=size_bytes, profile=figures)


def virtual(count: int = 2, *models: Any) -> Room:
    names = [f"virtual:{index}" for index in range(count)]
    return Room(names, models=models or (profile("m"), profile("n"), profile("o")))


def where(effects: Any) -> str:
    (effect,) = assigned(effects)
    assert isinstance(effect.header, Assign)
    return effect.header.device_id


def device(room: Room, name: str) -> Device:
    return room.core.context.fleet.devices[name]


def pinned(model_id: str, size_bytes: int) -> ModelResidency:
    return msgspec.structs.replace(residency(model_id, size_bytes=size_bytes), pinned=True)


def press(room: Room, name: str, level: PressureLevel) -> None:
    sample = telemetry(0)
    pressure = msgspec.structs.replace(sample.memory_pressure, level=level, pressure=0.0)
    report = Report(ready=True, telemetry=msgspec.structs.replace(sample, memory_pressure=pressure), models=[])
    room.handle(WorkerMessage(room.worker(name), report))


# time


def test_short_work_before_a_command_is_better_than_a_load_elsewhere() -> None:
    room = virtual()
    room.holds("virtual:1", residency("m"))
    room.send("generate", model_id="m", prompt="x", steps=2)
    room.send("generate", model_id="m", prompt="x", steps=2)
    assert len(device(room, "virtual:1").queue) == 1


def test_a_hot_model_spreads_once_waiting_costs_more_than_loading() -> None:
    room = virtual()
    room.holds("virtual:1", residency("m"))
    assert where(room.send("generate", model_id="m", prompt="x", steps=20)) == "virtual:1"
    room.send("generate", model_id="m", prompt="x", steps=20)
    assert where(room.send("generate", model_id="m", prompt="x", steps=20)) == "virtual:0"


def test_queued_milliseconds_decide_and_not_the_number_of_commands() -> None:
    room = virtual()
    room.send("generate", model_id="m", prompt="x", steps=400, device_id="virtual:0")
    for _ in range(3):
        room.send("generate", model_id="n", prompt="x", steps=1, device_id="virtual:1")
    room.send("load_model", model_id="o", request_id="late")
    assert room.core.context.jobs.live("late").device_id == "virtual:1"  # type: ignore[union-attr]


def test_what_has_run_already_is_no_longer_waited_for() -> None:
    room = virtual()
    room.send("generate", model_id="m", prompt="x", steps=100, device_id="virtual:0")
    room.wait(5.5)
    first = device(room, "virtual:0")
    assert first.wait_ms(room.now) == pytest.approx(500)


def test_a_command_that_is_overdue_is_expected_to_take_as_long_again() -> None:
    room = virtual()
    room.send("generate", model_id="m", prompt="x", steps=20, device_id="virtual:0")
    room.wait(4.0)
    assert device(room, "virtual:0").wait_ms(room.now) == pytest.approx(2000)


def test_progress_tells_when_a_device_is_free() -> None:
    room = virtual()
    (running,) = assigned(room.send("generate", model_id="m", prompt="x", steps=100, device_id="virtual:0"))
    room.progress(running, 99, 100)
    assert device(room, "virtual:0").wait_ms(room.now) == pytest.approx(5)


def test_finished_cancelled_and_expired_work_is_waited_for_no_longer() -> None:
    room = virtual()
    (running,) = assigned(room.send("generate", model_id="m", prompt="x", device_id="virtual:0"))
    room.send("generate", model_id="n", prompt="x", request_id="q", device_id="virtual:0")
    room.send("generate", model_id="o", prompt="x", timeout_seconds=1, device_id="virtual:0")
    assert device(room, "virtual:0").in_flight == 3
    room.send("cancel", target_request_id="q")
    room.wait(1.5)
    room.finish(running)
    one = device(room, "virtual:0")
    assert (one.in_flight, one.work_ms, one.promised_bytes, one.level) == (0, 0.0, 0, 0)


def test_the_lost_workers_work_is_forgotten_and_its_models_too() -> None:
    room = virtual()
    room.holds("virtual:0", residency("m"))
    room.send("generate", model_id="m", prompt="x", steps=1, device_id="virtual:0")
    room.send("generate", model_id="m", prompt="x", steps=1, request_id="q")
    room.handle(ChildExited(child="virtual:0", generation=1, reason="killed"))
    fleet = room.core.context.fleet
    assert device(room, "virtual:0").level == ABSENT
    assert device(room, "virtual:0") not in fleet.near("m")
    assert room.core.context.jobs.live("q").device_id == "virtual:1"  # type: ignore[union-attr]


def test_measured_times_are_used_and_kept_across_restarts() -> None:
    room = Room()
    (load,) = assigned(room.send("load_model", model_id="m", device_id="cpu:0"))
    room.core.context.estimates.of(model("m"), "cpu")
    facts = RunFacts(load_ms=9000.0, source=LoadSource.DISK, weights_bytes=1000)
    header = load.header
    assert isinstance(header, Assign)
    update = JobUpdate(
        request_id=header.request_id, attempt=header.attempt, state=ReplyState.COMPLETED, success=True, facts=facts
    )
    room.handle(WorkerMessage(load.worker, update, (b"{}",)))
    kept = [effect for effect in room.wait(10) if isinstance(effect, Remember)]
    assert len(kept) == 1
    again = Room(remembered=kept[0].data)
    assert again.core.context.estimates.of(model("m"), "cpu").load_ms(Tier.DISK) == 9000


def test_a_benchmark_teaches_what_a_picture_takes_and_what_a_benchmark_does() -> None:
    room = Room()
    (sent,) = assigned(room.send("benchmark_model", model_id="m", device_id="cpu:0"))
    header = sent.header
    assert isinstance(header, Assign)
    facts = RunFacts(run_ms=900.0, runs=3, images=6, peak_bytes=5000, weights_bytes=2000, steps=4, width=64, height=64)
    room.wait(7)
    update = JobUpdate(
        request_id=header.request_id, attempt=header.attempt, state=ReplyState.COMPLETED, success=True, facts=facts
    )
    room.handle(WorkerMessage(sent.worker, update, (b"{}",)))
    figures = room.core.context.estimates.of(model("m"), "cpu")
    picture = placement.Shape("generate", 64, 64, 4, 2)
    assert (figures.run_ms(picture), figures.peak_bytes(picture)) == (300.0, 5000)
    assert figures.run_ms(placement.Shape("benchmark_model")) == pytest.approx(7000)


def test_what_was_learned_last_is_kept_at_the_exit() -> None:
    room = Room(("cpu:0",))
    room.core.context.estimates.learn(model("m"), "cpu", placement.Shape("load_model"), RunFacts(weights_bytes=5), 0)
    effects = [*room.handle(Drain(seconds=1.0)), *room.wait(1)]
    assert sum(isinstance(effect, Remember) for effect in effects) == 1


def test_a_broken_memory_is_logged_and_ignored() -> None:
    room = Room(remembered=b"nonsense")
    assert where(room.send("load_model", model_id="m")) == "cpu:0"


# memory


def test_a_device_with_room_is_better_than_one_that_must_evict() -> None:
    room = virtual(2, profile("m", size_bytes=VRAM // 2), profile("n", size_bytes=VRAM // 2))
    room.holds("virtual:0", residency("x", size_bytes=VRAM - 10), used=VRAM - 10)
    assert where(room.send("load_model", model_id="m")) == "virtual:1"


def test_pinned_models_send_a_load_elsewhere() -> None:
    room = virtual(2, profile("m", size_bytes=VRAM // 2, load_ms=10))
    room.holds("virtual:0", pinned("x", VRAM - 10), used=VRAM - 10)
    room.send("generate", model_id="m", prompt="x", steps=1000, device_id="virtual:1")
    room.send("load_model", model_id="m", request_id="q")
    assert room.core.context.jobs.live("q").device_id == "virtual:1"  # type: ignore[union-attr]


def test_where_every_device_is_full_of_pins_the_worker_answers() -> None:
    room = virtual(1, profile("m", size_bytes=VRAM // 2))
    room.holds("virtual:0", pinned("x", VRAM - 10), used=VRAM - 10)
    assert where(room.send("load_model", model_id="m")) == "virtual:0"


def test_what_no_device_can_ever_hold_is_refused_with_the_numbers() -> None:
    room = virtual(2, profile("huge", size_bytes=2 * VRAM))
    reply = room.ask("load_model", model_id="huge")
    assert code(reply) == "INSUFFICIENT_MEMORY"
    assert reply["error"]["retryable"] is False
    details = reply["error"]["details"]
    assert (details["needed_bytes"], details["total_bytes"]) == (2 * VRAM, VRAM)
    assert {"free_bytes", "evictable_bytes", "pinned_bytes"} <= details.keys()
    assert reply["error"]["recovery"]


def test_a_run_whose_peak_no_device_has_is_refused_and_its_load_is_not() -> None:
    room = virtual(2, profile("m", size_bytes=VRAM // 2, peak=2 * VRAM))
    assert code(room.ask("generate", model_id="m", prompt="x")) == "INSUFFICIENT_MEMORY"
    assert where(room.send("load_model", model_id="m")) == "virtual:0"


def test_a_named_device_is_hard() -> None:
    room = virtual()
    room.holds("virtual:0", residency("m"))
    assert where(room.send("generate", model_id="m", prompt="x", device_id="virtual:1")) == "virtual:1"
    room.send("generate", model_id="m", prompt="x", device_id="virtual:1", request_id="q", steps=1000)
    assert room.core.context.jobs.live("q").device_id == "virtual:1"  # type: ignore[union-attr]


def test_a_named_device_that_is_too_small_is_refused_and_a_larger_one_named() -> None:
    room = virtual(2, profile("m", size_bytes=2 * VRAM))
    larger = device(room, "virtual:1")
    larger.memory = type(larger.memory).of(4 * VRAM, 4 * VRAM, 0)
    reply = room.ask("load_model", model_id="m", device_id="virtual:0")
    assert code(reply) == "INSUFFICIENT_MEMORY"
    recovery = reply["error"]["recovery"][0]
    assert (recovery["action"], recovery["parameters"]["device_id"]) == ("load_model", "virtual:1")
    assert where(room.send("load_model", model_id="m")) == "virtual:1"


def test_no_real_model_is_refused_by_the_size_of_its_file() -> None:
    room = Room(models=[model("m", size_bytes=100 * VRAM)])
    assert where(room.send("load_model", model_id="m")) == "cpu:0"


# pressure


def test_critical_pressure_sends_loads_elsewhere() -> None:
    room = virtual()
    press(room, "virtual:0", PressureLevel.CRITICAL)
    assert where(room.send("load_model", model_id="m")) == "virtual:1"


def test_critical_pressure_everywhere_refuses_low_priority_alone() -> None:
    room = virtual(1)
    press(room, "virtual:0", PressureLevel.CRITICAL)
    reply = room.ask("load_model", model_id="m", priority="Low")
    assert code(reply) == "INSUFFICIENT_MEMORY"
    assert reply["error"]["retryable"] is True
    assert reply["error"]["retry_after_ms"]
    assert where(room.send("load_model", model_id="m")) == "virtual:0"


def test_critical_pressure_does_not_stop_work_with_what_is_there() -> None:
    room = virtual(1)
    press(room, "virtual:0", PressureLevel.CRITICAL)
    room.handle(WorkerMessage(room.worker("virtual:0"), Report(ready=True, models=[residency("m")])))
    assert where(room.send("generate", model_id="m", prompt="x", priority="Low")) == "virtual:0"


# who may


def test_a_run_that_must_not_load_goes_where_the_model_is() -> None:
    room = virtual()
    room.holds("virtual:1", residency("m"))
    room.send("generate", model_id="n", prompt="x", steps=4000, device_id="virtual:1")
    room.send("generate", model_id="m", prompt="x", load_if_needed=False, request_id="q")
    assert room.core.context.jobs.live("q").device_id == "virtual:1"  # type: ignore[union-attr]


def test_without_any_worker_commands_wait_and_without_any_device_they_fail() -> None:
    room = Room(("cpu:0",), connected=False)
    assert assigned(room.send("load_model", model_id="m", request_id="q")) == []
    room.register("cpu:0")
    assert ids(room.new()) == ["q"]
    room.handle(ChildExited(child="cpu:0", generation=1, reason="broken", restarting=False))
    room.new()
    assert code(answer(room.send("load_model", model_id="n"))) == "DEVICE_UNAVAILABLE"


# large fleets


def test_a_decision_looks_at_a_few_devices_of_a_large_fleet() -> None:
    room = virtual(200)
    room.holds("virtual:150", residency("m"))
    assert where(room.send("generate", model_id="m", prompt="x", request_id="hot")) == "virtual:150"
    room.send("generate", model_id="n", prompt="x", request_id="cold")
    for request_id, most in (("hot", 1), ("cold", placement.FIRST)):
        decision = room.core.context.decisions.find(request_id)
        assert decision is not None
        assert len(decision.scores) <= most


def test_cold_work_fills_a_large_fleet_before_anything_waits() -> None:
    room = virtual(60, *(profile(f"m{number}") for number in range(60)))
    places = [where(room.send("load_model", model_id=f"m{number}")) for number in range(60)]
    assert len(set(places)) == 60


def test_a_hot_model_spreads_over_a_large_fleet_evenly() -> None:
    room = virtual(20)
    for index in range(20):
        room.holds(f"virtual:{index}", residency("m"))
    for _ in range(100):
        room.send("generate", model_id="m", prompt="x")
    assert {one.in_flight for one in room.core.context.fleet.devices.values()} == {5}


def test_the_pool_keeps_every_device_on_the_level_of_its_work() -> None:
    fleet = Fleet([DeviceSlot(device_id=f"cpu:{index}", kind=DeviceKind.CPU) for index in range(30)])
    pool, chance = fleet.pool(profiles=False), random.Random(1)
    for _ in range(2000):
        one = chance.choice(pool.devices)
        pool.stand(one, chance.choice([ABSENT, 0, 1, 5, level_of(chance.random() * 1e12)]))
        present = sorted(d.level for d in pool.devices if d.level != ABSENT)
        assert sorted(d.level for d in pool.least(100)) == present
        assert [d.level for d in pool.least(3)] == present[:3]
        assert bool(pool.occupied) == bool(present)


def test_an_empty_pool_has_nobody() -> None:
    assert Pool().least(3) == []


def test_every_index_agrees_with_the_devices_after_a_storm() -> None:
    room, chance = virtual(6), random.Random(7)
    running: list[Any] = []
    for number in range(400):
        match chance.randrange(6):
            case 0 | 1 | 2:
                fields = {"model_id": chance.choice("mno"), "request_id": f"r{number}"}
                action = chance.choice(["load_model", "generate", "unload_model"])
                extra = {"prompt": "x", "steps": chance.randrange(1, 40)} if action == "generate" else {}
                room.send(action, client=b"c%d" % chance.randrange(3), **fields, **extra)
            case 3:
                room.send("cancel", target_request_id=f"r{chance.randrange(number + 1)}", request_id=f"x{number}")
            case 4:
                name = f"virtual:{chance.randrange(6)}"
                room.holds(name, *(residency(m) for m in chance.sample("mno", chance.randrange(3))))
            case _:
                room.wait(chance.random())
        running += assigned(room.new())
        if running and chance.random() < 0.4:
            room.finish(running.pop(0))
            running += assigned(room.new())
    _check_indices(room)


def _check_indices(room: Room) -> None:
    fleet = room.core.context.fleet
    bringing = {"load_model", "generate"}
    for one in fleet.devices.values():
        jobs = [*one.queue, *([one.running] if one.running is not None else [])]
        assert one.in_flight == len(jobs)
        assert one.work_ms == pytest.approx(sum(job.estimate_ms for job in jobs))
        assert one.promised_bytes == sum(job.promised_bytes for job in jobs)
        assert one.level == (level_of(one.work_ms) if jobs else 0)
        for model_id in "mno":
            reasons = (model_id in one.models) + sum(
                job.model_id == model_id and job.action.name in bringing for job in jobs
            )
            assert fleet.near(model_id).get(one, 0) == reasons
