"""`explain`: the numbers of a decision, as they were when it fell."""

from __future__ import annotations

from typing import Any

import pytest
from room import Room, assigned, model, residency
from test_placement import pinned, profile, virtual

from broker.core.decision import REMEMBERED, Decision, Decisions
from broker.core.events import WorkerMessage
from broker.core.explain import SHOWN
from protocol.enums import Tier
from protocol.link import ModelChanged

TIMES = ("queue_ms", "load_ms", "replication_ms", "eviction_ms", "run_ms")


def explained(room: Room, request_id: str) -> Any:
    reply = room.ask("explain", target_request_id=request_id)
    assert reply["success"], reply
    assert reply["target_request_id"] == request_id
    return reply


def by_device(reply: Any) -> dict[str, Any]:
    return {candidate["device_id"]: candidate for candidate in reply["candidates"]}


def test_the_chosen_device_stands_first_and_has_the_lowest_score() -> None:
    room = virtual(3)
    room.holds("virtual:1", residency("m"))
    room.send("generate", model_id="m", prompt="x", steps=10, request_id="r")
    reply = explained(room, "r")
    first, *others = reply["candidates"]
    assert reply["chosen"] == first["device_id"] == "virtual:1"
    assert len(others) == 2
    assert all(first["score"] < other["score"] for other in others)
    assert all(candidate["excluded_because"] is None for candidate in reply["candidates"])


def test_a_score_is_the_sum_of_its_times() -> None:
    room = virtual(3)
    room.holds("virtual:1", residency("m"))
    room.send("generate", model_id="n", prompt="x", steps=30, device_id="virtual:1")
    room.send("generate", model_id="m", prompt="x", steps=10, request_id="r")
    candidates = by_device(explained(room, "r"))
    for candidate in candidates.values():
        assert candidate["score"] == pytest.approx(sum(candidate["terms"][name] for name in TIMES))
    holder, other = candidates["virtual:1"]["terms"], candidates["virtual:0"]["terms"]
    assert (holder["residency"], holder["load_ms"], holder["in_flight"]) == (2, 0, 1)
    assert holder["queue_ms"] == pytest.approx(1000 + 30 * 50)
    assert (other["residency"], other["load_ms"], other["replication_ms"]) == (0, 1000, 250)
    assert other["run_ms"] == 500


def test_the_ram_tier_is_told_from_disk() -> None:
    room = virtual(2)
    room.holds("virtual:1", residency("m", Tier.RAM))
    room.send("load_model", model_id="m", request_id="r")
    candidates = by_device(explained(room, "r"))
    assert (candidates["virtual:1"]["terms"]["residency"], candidates["virtual:1"]["terms"]["load_ms"]) == (1, 100)


def test_a_named_device_is_explained_by_its_name() -> None:
    room = virtual(2)
    room.send("load_model", model_id="m", request_id="r", device_id="virtual:1")
    reply = explained(room, "r")
    assert "names it" in reply["message"]
    assert reply["candidates"][0]["device_id"] == "virtual:1"
    assert reply["candidates"][0]["score"] == 1000
    assert "another device" in by_device(reply)["virtual:0"]["excluded_because"]


def test_devices_of_another_kind_are_excluded_with_the_reason() -> None:
    room = Room(("cpu:0", "virtual:0"), models=[model("m")])
    room.send("load_model", model_id="m", request_id="r")
    assert "kind" in by_device(explained(room, "r"))["virtual:0"]["excluded_because"]


def test_pins_exclude_with_the_bytes() -> None:
    room = virtual(2, profile("m", size_bytes=1 << 29))
    room.holds("virtual:0", pinned("x", 1 << 30), used=1 << 30)
    room.send("load_model", model_id="m", request_id="r")
    assert str(1 << 30) in by_device(explained(room, "r"))["virtual:0"]["excluded_because"]


def test_waits_say_how_long_and_where() -> None:
    room = virtual(1)
    (running,) = assigned(room.send("generate", model_id="m", prompt="x", request_id="a"))
    room.wait(1)
    room.send("generate", model_id="m", prompt="x", request_id="b")
    room.wait(2)
    (wait,) = explained(room, "b")["waits"]
    assert "virtual:0" in wait["reason"]
    assert wait["ms"] == pytest.approx(2000)
    room.finish(running)
    room.wait(3)
    assert explained(room, "b")["waits"] == [wait]
    assert explained(room, "a")["waits"] == []


def test_waiting_for_the_catalogue_is_a_wait_of_its_own() -> None:
    room = Room(models=None)
    room.send("load_model", model_id="m", request_id="r")
    assert explained(room, "r")["chosen"] is None
    room.wait(2)
    room.register_catalog()
    room.entries(model("m"), complete=True)
    (wait,) = explained(room, "r")["waits"]
    assert "placed" in wait["reason"]
    assert wait["ms"] == pytest.approx(2000)


def test_evictions_are_those_carried_out_for_it() -> None:
    room = virtual(1)
    (running,) = assigned(room.send("load_model", model_id="m", request_id="r"))
    for reason, tier, model_id in (
        ("evicted: room for m", Tier.VRAM, "x"),
        ("evicted: RAM tier full", Tier.RAM, "y"),
        ("expired", Tier.VRAM, "z"),
    ):
        change = ModelChanged(
            model_id=model_id, tier=Tier.DISK, from_tier=tier, bytes=99, freed_bytes=77, reason=reason
        )
        room.handle(WorkerMessage(room.worker("virtual:0"), change))
    room.finish(running)
    assert explained(room, "r")["evictions"] == [{"model_id": "x", "bytes": 77}]


def test_passes_are_counted() -> None:
    room = virtual(1)
    room.holds("virtual:0", residency("m"))
    (running,) = assigned(room.send("generate", model_id="m", prompt="x"))
    room.send("generate", model_id="n", prompt="x", request_id="cold", client=b"c2")
    room.send("generate", model_id="m", prompt="x", request_id="warm", client=b"c3")
    (following,) = assigned(room.finish(running))
    assert following.header.request_id == "warm"  # type: ignore[attr-defined]
    assert explained(room, "cold")["passes"] == 1


def test_a_final_command_is_explained_as_long_as_it_is_remembered() -> None:
    room = virtual(2)
    (running,) = assigned(room.send("load_model", model_id="m", request_id="r"))
    before = explained(room, "r")["candidates"]
    room.finish(running)
    assert explained(room, "r")["candidates"] == before


def test_a_command_to_all_holders_has_no_candidates() -> None:
    room = virtual(2)
    room.holds("virtual:1", residency("m"))
    (running,) = assigned(room.send("unload_model", model_id="m", request_id="r"))
    assert explained(room, "r")["chosen"] == "virtual:1"
    room.finish(running)
    reply = explained(room, "r")
    assert (reply["chosen"], reply["candidates"]) == ("virtual:1", [])


def test_a_load_that_follows_an_equal_one_is_explained_by_it() -> None:
    room = virtual(2)
    (running,) = assigned(room.send("load_model", model_id="m", request_id="first"))
    assert assigned(room.send("load_model", model_id="m", request_id="second")) == []
    during = explained(room, "second")
    room.finish(running)
    assert explained(room, "second")["candidates"] == during["candidates"] == explained(room, "first")["candidates"]


def test_an_unknown_request_has_no_decision() -> None:
    reply = explained(virtual(1), "never")
    assert (reply["candidates"], reply["chosen"], reply["evictions"], reply["waits"]) == ([], None, [], [])


def test_a_large_fleet_is_shown_in_part() -> None:
    room = virtual(100)
    room.holds("virtual:99", residency("m"))
    room.send("generate", model_id="m", prompt="x", request_id="r")
    candidates = explained(room, "r")["candidates"]
    assert len(candidates) == SHOWN
    assert candidates[0]["device_id"] == "virtual:99"
    assert all(candidate["score"] is None and candidate["excluded_because"] for candidate in candidates[1:])


def test_decisions_are_forgotten_oldest_first() -> None:
    decisions = Decisions()
    for number in range(REMEMBERED + 2):
        decisions.keep(str(number), Decision(0.0, 0.0, False, "cpu:0", []))
    assert decisions.find("1") is None
    assert decisions.find("2") is not None
