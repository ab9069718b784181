"""`plan`: a load that is only thought through."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from room import START, VRAM, Room, answer, assigned, code, model, residency
from test_placement import pinned, profile, virtual

from broker.core.figures import Shape
from protocol.enums import ComponentType, LoadPriority, ModelStatus, Tier
from protocol.link import RunFacts
from protocol.telemetry import ComponentResidency, ModelResidency

HALF = VRAM // 2


def plan(room: Room, **fields: Any) -> Any:
    reply = room.ask("plan", **fields)
    assert reply["success"], reply
    return reply


def used(model_id: str, minutes: int, size_bytes: int = HALF // 2) -> ModelResidency:
    held = residency(model_id, size_bytes=size_bytes)
    return msgspec.structs.replace(held, last_used=START + timedelta(minutes=minutes))


def test_a_load_that_fits_free_memory_evicts_nobody() -> None:
    room = virtual(2, profile("m", size_bytes=HALF, load_ms=1500, peak=HALF + 99))
    reply = plan(room, model_id="m")
    assert reply["fits"] is True
    assert (reply["bytes_needed"], reply["peak_bytes"]) == (HALF, HALF + 99)
    assert (reply["evictions"], reply["estimated_ms"]) == ([], 1500)
    assert reply["device_id"] == "virtual:0"
    assert [candidate["device_id"] for candidate in reply["candidates"]] == ["virtual:0", "virtual:1"]


def test_a_plan_has_no_effect() -> None:
    room = virtual(1)
    effects = room.send("plan", model_id="m", model_path="/models/m.vmodel.json", pin=True)
    assert answer(effects)["success"]
    assert assigned(effects) == []
    one = room.core.context.fleet.devices["virtual:0"]
    assert (one.in_flight, len(one.queue), one.models) == (0, 0, {})
    assert room.core.context.decisions.find("x") is None


def test_a_load_goes_where_its_plan_said() -> None:
    room = virtual(3)
    room.holds("virtual:0", residency("x"), used=VRAM - 10)
    room.send("generate", model_id="n", prompt="x", device_id="virtual:1")
    planned = plan(room, model_id="m")["device_id"]
    (load,) = assigned(room.send("load_model", model_id="m", request_id="r"))
    assert load.header.device_id == planned == "virtual:2"  # type: ignore[attr-defined]


def test_plan_and_explain_show_the_same_numbers() -> None:
    room = virtual(3)
    room.holds("virtual:1", residency("x"), used=VRAM - 10)
    planned = plan(room, model_id="m")["candidates"]
    room.send("load_model", model_id="m", request_id="r")
    assert room.ask("explain", target_request_id="r")["candidates"] == planned


def test_evictions_are_the_least_recently_used_first_and_no_more_than_needed() -> None:
    room = virtual(1, profile("m", size_bytes=HALF))
    held = [used("new", 3), used("old", 1), used("middle", 2), used("newest", 4)]
    room.holds("virtual:0", *held, used=VRAM)
    reply = plan(room, model_id="m")
    assert reply["fits"]
    assert reply["evictions"] == [
        {"model_id": "old", "bytes": HALF // 2},
        {"model_id": "middle", "bytes": HALF // 2},
    ]


def test_a_plan_has_models_leave_in_the_workers_order() -> None:
    room = virtual(1, profile("m", size_bytes=HALF))
    cheap = msgspec.structs.replace(used("cheap", 9), reload_ms=10.0)
    dear = msgspec.structs.replace(used("dear", 1), reload_ms=100.0)
    low = msgspec.structs.replace(used("low", 5), reload_ms=1000.0, priority=LoadPriority.Low)
    room.holds("virtual:0", dear, cheap, low, used=VRAM)
    assert [one["model_id"] for one in plan(room, model_id="m")["evictions"]] == ["low", "cheap"]


def test_a_plan_counts_what_leaving_models_free() -> None:
    room = virtual(1, profile("m", size_bytes=HALF))
    half = HALF // 2
    shared = ComponentResidency(
        name="vae", type=ComponentType.VAE, bytes=half // 2, tier=Tier.VRAM, shared_with=["two", "one"]
    )
    both = [
        msgspec.structs.replace(used(name, minutes, half), components=[shared])
        for minutes, name in enumerate(("one", "two"))
    ]
    room.holds("virtual:0", *both, used("kept", 9, half), used=VRAM)
    evictions = plan(room, model_id="m")["evictions"]
    assert [(one["model_id"], one["bytes"]) for one in evictions] == [
        ("one", half // 2),
        ("two", half),
        ("kept", half),
    ]


def test_pinned_and_busy_models_stay_and_a_plan_without_room_evicts_nobody() -> None:
    room = virtual(1, profile("m", size_bytes=HALF))
    busy = msgspec.structs.replace(residency("busy", size_bytes=HALF // 2), sessions=1)
    room.holds("virtual:0", pinned("kept", HALF // 2), busy, used("idle", 1), used=VRAM - HALF // 4)
    reply = plan(room, model_id="m")
    assert reply["fits"] is False
    assert reply["evictions"] == []


def test_what_can_never_fit_is_an_answer_and_no_error() -> None:
    room = virtual(2, profile("huge", size_bytes=3 * VRAM))
    reply = plan(room, model_id="huge")
    assert (reply["fits"], reply["bytes_needed"]) == (False, 3 * VRAM)
    assert reply["candidates"][0]["excluded_because"]


def test_a_resident_model_needs_nothing_and_waits_for_nothing() -> None:
    room = virtual(2)
    room.holds("virtual:1", residency("m"))
    reply = plan(room, model_id="m")
    assert (reply["device_id"], reply["bytes_needed"], reply["estimated_ms"]) == ("virtual:1", 0, 0)
    assert plan(room, model_id="m", force=True)["estimated_ms"] == 1000


def test_the_time_counts_what_waits_before_it() -> None:
    room = virtual(1)
    room.send("generate", model_id="n", prompt="x", steps=10)
    assert plan(room, model_id="m")["estimated_ms"] == 1000 + 10 * 50 + 1000


def test_a_named_device_is_the_only_candidate() -> None:
    room = virtual(3)
    reply = plan(room, model_id="m", device_id="virtual:2")
    assert reply["device_id"] == "virtual:2"
    assert len(reply["candidates"]) == 1


def test_measured_peaks_are_told() -> None:
    room = Room()
    facts = RunFacts(run_ms=1.0, peak_bytes=5000, weights_bytes=2000, steps=1, width=8, height=8)
    room.core.context.estimates.learn(model("m"), "cpu", Shape("generate"), facts, 0.0)
    reply = plan(room, model_id="m")
    assert (reply["bytes_needed"], reply["peak_bytes"]) == (2000, 5000)
    assert (reply["load_peak_bytes"], reply["run_peak_bytes"]) == (2000, 5000)
    # 1 ms for 64 pixels; a picture of the family's own side has 512 x 512.
    assert reply["step_ms"] == pytest.approx(512 * 512 / 64)


def test_a_peak_comes_from_the_family_before_any_run() -> None:
    room = Room(models=[model("m", size_bytes=2000, working_bytes=700)])
    reply = plan(room, model_id="m")
    assert (reply["load_peak_bytes"], reply["run_peak_bytes"], reply["peak_bytes"]) == (2000, 2700, 2700)
    assert reply["step_ms"] is None


def test_a_profile_says_its_peaks_and_its_step() -> None:
    room = virtual(1, profile("m", size_bytes=HALF, step_ms=7.0, peak=HALF + 99))
    reply = plan(room, model_id="m")
    assert (reply["load_peak_bytes"], reply["run_peak_bytes"], reply["step_ms"]) == (HALF, HALF + 99, 7.0)


def test_models_that_cannot_be_planned_are_typed_errors() -> None:
    room = Room(models=[model("m"), model("gone", status=ModelStatus.Missing)])
    assert code(room.ask("plan", model_id="mm")) == "MODEL_NOT_FOUND"
    assert code(room.ask("plan", model_id="gone")) == "MODEL_NOT_FOUND"
    assert code(room.ask("plan", model_id="m", model_path="/models/other")) == "INVALID_ARGUMENT"
    reply = room.ask("plan", model_path="/models/new.safetensors")
    assert code(reply) == "MODEL_NOT_FOUND"
    assert reply["error"]["recovery"][0]["action"] == "register_model"
    assert plan(room, model_path="/models/m")["model_id"] == "m"
    assert code(room.ask("plan", model_id="m", device_id="cpu:9")) == "DEVICE_NOT_FOUND"
    nobody = Room(("cpu:0",), models=[profile("v")])
    assert code(nobody.ask("plan", model_id="v")) == "DEVICE_UNAVAILABLE"


def test_a_plan_waits_for_the_catalogue() -> None:
    room = Room(models=None)
    assert room.send("plan", model_id="m", request_id="p") == []
    room.register_catalog()
    room.entries(model("m"), complete=True)
    assert answer(room.new())["request_id"] == "p"


def sharing(model_id: str, minutes: int, others: list[str], pin: bool = False) -> ModelResidency:
    """A model of half of the device, of which it shares a half with others."""
    parts = [
        ComponentResidency(name="unet", type=ComponentType.UNet, bytes=HALF // 2, tier=Tier.VRAM),
        ComponentResidency(
            name="text_encoder", type=ComponentType.TextEncoder, bytes=HALF // 2, tier=Tier.VRAM, shared_with=others
        ),
    ]
    return msgspec.structs.replace(used(model_id, minutes, HALF), components=parts, pinned=pin)


def test_what_a_model_shares_with_one_that_stays_is_not_had_back() -> None:
    room = virtual(1, profile("m", size_bytes=HALF + HALF // 2))
    room.holds("virtual:0", sharing("a", 1, ["b"]), sharing("b", 2, ["a"]), used=VRAM - HALF // 2)
    reply = plan(room, model_id="m")
    assert reply["fits"] is True
    assert [eviction["model_id"] for eviction in reply["evictions"]] == ["a", "b"]


@pytest.mark.parametrize(("others", "pinned_bytes"), [((["b"], ["a"]), HALF + HALF // 2), (([], []), VRAM)])
def test_what_pinned_models_share_is_pinned_once(others: tuple[list[str], list[str]], pinned_bytes: int) -> None:
    room = virtual(1, profile("m", size_bytes=HALF // 2))
    held = [sharing(name, 1, shared, pin=True) for name, shared in zip("ab", others, strict=True)]
    room.holds("virtual:0", *held, used=pinned_bytes)
    assert room.core.context.fleet.devices["virtual:0"].memory.pinned == pinned_bytes
    assert plan(room, model_id="m")["fits"] is (pinned_bytes < VRAM)
