"""What may wait, and what becomes of the rest; and nothing that grows with the catalogue or is kept after its end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.core import answers as answers_module
from broker.core.catalogue import Catalogue
from broker.core.events import ClientMessage, Publish, Subscribed, WorkerMessage, WorkerUnreachable
from broker.core.quotas import Sender
from protocol.enums import ReplyState
from protocol.errors import ErrorCode
from protocol.link import CatalogEntries, JobUpdate
from protocol.replies import Limits
from tests.broker.room import (
    CATALOG,
    Room,
    answer,
    assigned,
    cancels,
    code,
    ids,
    model,
    published,
    replies,
    residency,
)


def test_the_control_lane_is_bounded_for_each_client_and_cancels_still_pass() -> None:
    room = Room(limits=Limits(queued_per_client=3))
    room.holds("cpu:0", residency("m"))
    pins = [assigned(room.send("pin_model", request_id=f"p{n}", model_id="m")) for n in range(3)]
    assert all(pins)
    refused = room.ask("pin_model", request_id="p3", model_id="m")
    assert code(refused) == "QUEUE_FULL" and "3 commands" in refused["message"]
    assert room.ask("cancel", target_request_id="nobody")["outcome"] == "unknown"
    assert assigned(room.send("pin_model", b"c2", request_id="q", model_id="m")), "another client has places of its own"
    room.finish(pins[0][0])
    assert assigned(room.send("pin_model", request_id="p4", model_id="m"))


def test_a_workers_control_lane_is_bounded() -> None:
    room = Room(limits=Limits(queued_per_device=2))
    room.holds("cpu:0", residency("m"))
    for number in range(2):
        assert assigned(room.send("pin_model", f"c{number}".encode(), model_id="m"))
    assert code(room.ask("pin_model", b"c9", model_id="m")) == "QUEUE_FULL"


def test_the_catalogue_is_bounded_for_each_client_and_in_all() -> None:
    room = Room(limits=Limits(queued_per_client=2, queued_per_device=3))
    first = assigned(room.send("list_models", request_id="l0"))
    room.send("list_models", request_id="l1")
    assert code(room.ask("list_models", request_id="l2")) == "QUEUE_FULL"
    room.send("list_models", b"c2", request_id="l3")
    refused = room.ask("list_models", b"c3", request_id="l4")
    assert code(refused) == "QUEUE_FULL" and "catalogue" in refused["message"]
    room.finish(first[0])
    assert assigned(room.send("list_models", b"c3", request_id="l5"))


def test_a_load_that_finds_no_place_in_the_catalogue_leaves_nothing_behind() -> None:
    room = Room(limits=Limits(queued_per_device=1))
    room.send("list_models", request_id="l0")
    refused = room.ask("load_model", b"c2", request_id="x", model_id="new", model_path="/models/new")
    assert code(refused) == "QUEUE_FULL"
    assert [job.request_id for job in room.core.context.jobs] == ["l0"]


def test_a_cancel_and_a_deadline_reach_the_catalogue() -> None:
    room = Room()
    room.send("scan_models", request_id="s0")
    assert [one.request_id for one in cancels(room.send("cancel", target_request_id="s0"))] == ["s0"]
    room.send("scan_models", request_id="s1", timeout_seconds=5)
    assert [(one.request_id, one.code) for one in cancels(room.wait(6))] == [("s1", ErrorCode.TIMEOUT)]


def test_six_identical_poisons_queued_and_coalesced_kill_two_workers() -> None:
    for fields in ({"action": "generate", "prompt": "x"}, {"action": "load_model"}):
        room, deaths = Room(devices=("cpu:0",)), 0
        for number in range(6):
            room.send(
                fields["action"],
                f"c{number}".encode(),
                request_id=f"r{number}",
                model_id="m",
                **{key: value for key, value in fields.items() if key != "action"},
            )
        generation = 1
        while room.core.context.fleet.devices["cpu:0"].running is not None:
            deaths += 1
            generation += 1
            assert deaths <= 3
            room.handle(WorkerUnreachable(room.worker("cpu:0")))
            room.register("cpu:0", generation)
        assert deaths == 2
        ended = [reply for reply in replies(room.effects) if reply["state"] == "failed"]
        assert len(ended) == 6 and {code(reply) for reply in ended} == {"WORKER_LOST"}
        refused = ended[-1]["error"]
        assert refused["retryable"] is False and refused["details"]["deaths"] == 2 and refused["details"]["until"]


def test_a_reply_that_nobody_follows_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("it was decoded")

    room = Room()
    (load,) = assigned(room.send("load_model", model_id="m"))
    monkeypatch.setattr(answers_module, "decode_reply", never)
    monkeypatch.setattr("broker.core.endings.decode_reply", never)
    assert answer(room.finish(load))["success"]
    (draw,) = assigned(room.send("generate", model_id="m", prompt="x"))
    assert not answer(room.finish(draw, code=ErrorCode.INSUFFICIENT_MEMORY))["success"]


def test_followers_of_a_load_hear_the_progress_they_asked_for() -> None:
    room = Room()
    (load,) = assigned(room.send("load_model", request_id="first", model_id="m"))
    assert load.header.stream_progress  # type: ignore[union-attr]
    room.send("load_model", b"c2", request_id="second", model_id="m", stream_progress=True)
    effects = room.progress(load, 3, body=True)
    told = replies(effects)
    assert [(reply["request_id"], reply["state"], reply["step"]) for reply in told] == [("second", "progress", 3)]


def test_wrong_ids_are_answered_with_those_that_are_like_them_however_many_there_are() -> None:
    catalogue, bulletin = Catalogue(), Room().core.context.bulletin
    names = [f"model-{number:05d}" for number in range(2000)] + ["flux-dev", "sdxl-base"]
    catalogue.take(CatalogEntries(entries=[model(name) for name in names], complete=True), bulletin)
    assert "sdxl-base" in catalogue.nearest("sdxl-bass")
    assert "sdxl-base" in catalogue.nearest("xdxl-base")
    assert "flux-dev" in catalogue.nearest("FLUX-dev"[:4].lower() + "-dew")
    assert catalogue.nearest("z" * 128) == []
    catalogue.take(CatalogEntries(entries=[], removed=["sdxl-base"]), bulletin)
    assert catalogue.nearest("sdxl-bass") == []


def test_a_complete_list_that_comes_in_pieces_replaces_what_was_known_with_its_last() -> None:
    room = Room(models=None)
    room.register_catalog()
    room.send("load_model", request_id="waits", model_id="b")
    for entries, more in (([model("a")], True), ([model("b")], False)):
        header = CatalogEntries(entries=entries, complete=True, more=more)
        effects = room.handle(WorkerMessage(CATALOG, header))
        assert ids(effects) == ([] if more else ["waits"])
    room.handle(WorkerMessage(CATALOG, CatalogEntries(entries=[model("b")], complete=True)))
    assert list(room.core.context.catalogue.models) == ["b"]


def test_a_command_that_ends_while_it_waits_for_the_catalogue_is_forgotten() -> None:
    room = Room(models=None)
    room.send("load_model", request_id="w", model_id="m")
    assert list(room.core.context.undecided) == ["w"]
    room.send("cancel", target_request_id="w")
    assert not room.core.context.undecided


def test_topics_of_listeners_that_are_gone_are_forgotten() -> None:
    room = Room()
    room.handle(Subscribed("job."))
    room.send("generate", request_id="g", model_id="m", prompt="x")
    room.handle(Subscribed("job.", begins=False))
    assert not [topic for topic in room.core.context.bulletin._numbers if topic.startswith("job.")]


def test_two_keys_equal_request_ids_are_two_jobs_in_the_events() -> None:
    room = Room()
    room.handle(Subscribed("job."))
    room.new()
    for name in ("host", "other"):
        payload = {"action": "generate", "request_id": "same", "model_id": "m", "prompt": name}
        sender = Sender(name=name, scope=f"{name}\t")
        room.handle(ClientMessage(name.encode(), (), msgspec.json.encode(payload), (), sender))
    events = [event.payload for event in published(room.new(), "job.same") if isinstance(event, Publish)]
    numbers: dict[str, list[int]] = {}
    for event in events:
        numbers.setdefault(event.key, []).append(event.seq)  # type: ignore[attr-defined]
    assert set(numbers) == {"host", "other"}
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


def test_progress_of_a_command_without_a_body_is_noted_alone() -> None:
    room = Room()
    (draw,) = assigned(room.send("generate", request_id="g", model_id="m", prompt="x", stream_progress=True))
    update = JobUpdate(request_id="g", attempt=1, state=ReplyState.PROGRESS, success=True, step=1, steps=2)
    assert replies(room.handle(WorkerMessage(draw.worker, update))) == []
