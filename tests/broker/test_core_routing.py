"""Which device or process a command goes to, and in which order it is checked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from room import (
    CATALOG,
    Room,
    answer,
    assigned,
    code,
    ids,
    model,
    replies,
    residency,
    sent,
    success_of,
    to_workers,
    unloaded,
)

from broker.core.estimates import Estimates
from broker.core.events import Log, WorkerMessage
from broker.core.failures import MOST_A_SECOND
from broker.core.figures import Shape
from protocol import replies as r
from protocol.actions import ACTIONS
from protocol.codec import NO_LIMITS, decode_command, encode_reply
from protocol.commands import RegisterModel
from protocol.drawing import Mode
from protocol.enums import LoadSource, ModelStatus, ReplyState, Tier
from protocol.errors import ErrorCode
from protocol.link import Assign, Devices, JobUpdate, RunFacts, SavedModel
from protocol.records import ModelOptimizationResults

FIELDS: dict[str, dict[str, Any]] = {
    "generate": {"model_id": "m", "prompt": "a cat"},
    "load_model": {"model_id": "m"},
    "unload_model": {"model_id": "m"},
    "pin_model": {"model_id": "m"},
}


def header_of(effects: Any) -> Assign:
    (effect,) = assigned(effects)
    assert isinstance(effect.header, Assign)
    return effect.header


def where(effects: Any) -> str:
    return header_of(effects).device_id


# the broker's own commands


def test_ping_is_answered_with_time_and_epoch() -> None:
    reply = Room().ask("ping", request_id="r1")
    assert (reply["request_id"], reply["success"], reply["epoch"]) == ("r1", True, "epoch-1")
    assert reply["timing"]["total_ms"] >= 0


def test_a_command_without_request_id_gets_one() -> None:
    assert Room().ask("ping")["request_id"].startswith("id-")


def test_hello_names_actions_limits_and_protocol() -> None:
    reply = Room().ask("hello")
    assert reply["protocol"] == 1
    assert set(reply["actions"]) == set(ACTIONS)
    assert reply["limits"]["queued_per_client"] == 1024


def test_list_devices_shows_what_workers_reported() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"), used=5)
    first, second = room.ask("list_devices")["devices"]
    assert (first["device_id"], first["state"], first["used_vram"]) == ("cpu:0", "ready", 5)
    assert [held["model_id"] for held in first["models"]] == ["m"]
    assert second["models"] == []


def test_list_devices_of_one_uuid_in_any_case() -> None:
    for name in ("UUID-CPU:1", "uuid-cpu:1", "cpu:1", "CPU:1"):
        assert [d["device_id"] for d in Room().ask("list_devices", device_id=name)["devices"]] == ["cpu:1"]


def test_status_sums_devices_and_names_tiers() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"), used=1000)
    room.holds("cpu:1", residency("m", Tier.RAM))
    reply = room.ask("get_vram_model_status", model_id="m")
    assert [(entry["device_id"], entry["tier"]) for entry in reply["models"]] == [("cpu:0", "vram"), ("cpu:1", "ram")]
    assert reply["used_vram"] + reply["available_vram"] == reply["total_vram"] == 2 << 30
    assert reply["device_id"] == "all"


def test_status_of_an_unknown_model_is_model_not_found() -> None:
    assert code(Room().ask("get_vram_model_status", model_id="zzz")) == "MODEL_NOT_FOUND"


def optimized(header: Assign) -> r.OptimizeModelReply:
    return r.OptimizeModelReply(
        request_id=header.request_id,
        action=header.action,
        device_id=header.device_id,
        model_id="m",
        optimization_time=1.0,
        optimization_time_ms=1.0,
        memory_freed=0,
        vram_usage_after=0,
        results=ModelOptimizationResults(),
        optimized_at=datetime(2026, 1, 1, tzinfo=UTC),
        options=[],
    )


def test_an_optimised_model_has_a_name_that_no_other_has() -> None:
    fields = {"model_id": "m", "target": "Speed"}
    reply = Room().ask("optimize_model", **fields, optimized_model_name="n")
    assert code(reply) == "INVALID_ARGUMENT" and reply["error"]["details"]["field"] == "optimized_model_name"
    taken = Room(models=[model("m"), model("m-speed-basic")])
    assert code(taken.ask("optimize_model", **fields, level="Basic")) == "INVALID_ARGUMENT"
    for free in ({"optimized_model_name": "new"}, {"optimized_model_name": "n", "save_optimized": False}, {"level": 0}):
        assert header_of(Room().send("optimize_model", **fields, **free)).action == "optimize_model"
    assert code(Room().ask("optimize_model", **fields, optimized_model_name="a b")) == "INVALID_ARGUMENT"


def test_a_saved_model_is_known_before_its_reply_goes_out_and_the_device_is_free_at_once() -> None:
    room = Room()
    (sent,) = assigned(room.send("optimize_model", model_id="m", target="Speed", device_id="cpu:0"))
    header = sent.header
    assert isinstance(header, Assign)
    room.send("generate", model_id="m", prompt="x", device_id="cpu:0", request_id="next")
    update = JobUpdate(
        request_id=header.request_id,
        attempt=header.attempt,
        state=ReplyState.COMPLETED,
        success=True,
        facts=RunFacts(saved=SavedModel(model_id="m-speed-balanced", path="/models/optimized/m-speed-balanced")),
    )
    body = encode_reply(optimized(header), header.spelling)
    effects = room.handle(WorkerMessage(sent.worker, update, (body,)))
    assert not replies(effects)
    registering, following = assigned(effects)
    assert registering.worker == CATALOG and following.header.request_id == "next"  # type: ignore[union-attr]
    command = decode_command(registering.body[0], NO_LIMITS).command
    assert isinstance(command, RegisterModel)
    assert (command.model_id, command.model_path) == ("m-speed-balanced", "/models/optimized/m-speed-balanced")
    assert answer(room.finish(registering))["action"] == "optimize_model"


def test_a_saved_model_that_the_catalogue_refuses_is_answered_all_the_same() -> None:
    room = Room()
    (sent,) = assigned(room.send("optimize_model", model_id="m", target="Speed", device_id="cpu:0"))
    header = sent.header
    assert isinstance(header, Assign)
    facts = RunFacts(saved=SavedModel(model_id="x", path="/models/optimized/x"))
    update = JobUpdate(
        request_id=header.request_id, attempt=header.attempt, state=ReplyState.COMPLETED, success=True, facts=facts
    )
    body = encode_reply(optimized(header), header.spelling)
    (registering,) = assigned(room.handle(WorkerMessage(sent.worker, update, (body,))))
    assert answer(room.finish(registering, code=ErrorCode.MODEL_CORRUPTED))["success"] is True


def test_a_file_that_nobody_registered_is_validated_by_its_path() -> None:
    room = Room()
    header = header_of(room.send("validate_model", model_id="new", model_path="/models/new.safetensors"))
    assert header.model is not None and (header.model.model_id, header.model.path) == ("new", "/models/new.safetensors")
    assert code(room.ask("validate_model", model_id="new")) == "MODEL_NOT_FOUND"
    known = header_of(room.send("validate_model", model_id="m", model_path="/models/other", device_id="cpu:1"))
    assert known.model is not None and known.model.path != "/models/other", "the worker tells that they differ"


def test_a_profile_that_nobody_registered_goes_to_a_virtual_device() -> None:
    reply = Room().ask("validate_model", model_path="/models/new.vmodel.json")
    assert code(reply) == "DEVICE_UNAVAILABLE" and "virtual" in reply["message"]


def test_a_model_whose_file_is_gone_is_validated_and_not_loaded() -> None:
    room = Room(models=[model("m", status=ModelStatus.Missing)])
    assert header_of(room.send("validate_model", model_id="m")).action == "validate_model"
    assert code(room.ask("load_model", model_id="m")) == "MODEL_NOT_FOUND"


# devices


def test_a_resident_model_draws_its_commands() -> None:
    room = Room()
    room.holds("cpu:1", residency("m"))
    assert where(room.send("generate", **FIELDS["generate"])) == "cpu:1"


def test_a_model_in_ram_is_better_than_one_on_disk_and_vram_better_than_ram() -> None:
    room = Room(("cpu:0", "cpu:1", "cpu:2"))
    room.holds("cpu:1", residency("m", Tier.RAM))
    assert where(room.send("load_model", model_id="m")) == "cpu:1"
    room.holds("cpu:2", residency("m"))
    room.wait(5)
    other = Room(("cpu:0", "cpu:1", "cpu:2"))
    other.holds("cpu:1", residency("m", Tier.RAM))
    other.holds("cpu:2", residency("m"))
    assert where(other.send("load_model", model_id="m")) == "cpu:2"


def test_cold_models_spread_over_free_devices() -> None:
    room = Room()
    assert where(room.send("load_model", model_id="m")) == "cpu:0"
    assert where(room.send("load_model", model_id="n")) == "cpu:1"


def test_a_second_command_follows_the_load_that_is_under_way() -> None:
    room = Room()
    assert where(room.send("load_model", model_id="m")) == "cpu:0"
    room.send("generate", request_id="g", **FIELDS["generate"])
    assert room.core.context.fleet.devices["cpu:0"].queue.waits_for("m")


@pytest.mark.parametrize("name", ["cpu:1", "CPU:1", "UUID-CPU:1", "uuid-cpu:1"])
def test_a_named_device_gets_the_command(name: str) -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    assert where(room.send("generate", device_id=name, **FIELDS["generate"])) == "cpu:1"


@pytest.mark.parametrize("action", [*FIELDS, "list_devices", "get_vram_model_status"])
def test_an_unknown_device_is_device_not_found(action: str) -> None:
    reply = Room().ask(action, device_id="cuda:7", **FIELDS.get(action, {}))
    assert code(reply) == "DEVICE_NOT_FOUND"
    assert "cuda:7" in reply["message"]


@pytest.mark.parametrize("action", [*FIELDS])
def test_an_unknown_model_is_model_not_found_with_the_nearest(action: str) -> None:
    room = Room(models=[model("sdxl-base")])
    reply = room.ask(action, **{**FIELDS[action], "model_id": "sdxl-bas"})
    assert code(reply) == "MODEL_NOT_FOUND"
    assert reply["error"]["details"]["nearest"] == ["sdxl-base"]


def test_a_missing_file_is_model_not_found_until_a_device_holds_it() -> None:
    room = Room(models=[model("m", status=ModelStatus.Missing)])
    assert code(room.ask("load_model", model_id="m")) == "MODEL_NOT_FOUND"
    room.holds("cpu:1", residency("m"))
    assert where(room.send("generate", **FIELDS["generate"])) == "cpu:1"


def test_parameters_are_checked_before_the_device_and_the_device_before_the_model() -> None:
    room = Room()
    assert code(room.ask("generate", device_id="cuda:7", model_id="zzz")) == "MISSING_PARAMETER"
    assert code(room.ask("generate", device_id="cuda:7", model_id="zzz", prompt="x")) == "DEVICE_NOT_FOUND"
    assert code(room.ask("generate", device_id="cpu:0", model_id="zzz", prompt="x")) == "MODEL_NOT_FOUND"
    assert code(room.ask("generate", model_id="m", prompt="x", steps=0, device_id="cuda:7")) == "INVALID_ARGUMENT"
    assert code(room.ask("fly", device_id="cuda:7")) == "UNKNOWN_ACTION"


def test_profiles_go_to_virtual_devices_alone() -> None:
    profile = model("v", path="/models/v.vmodel.json")
    room = Room(("cpu:0", "virtual:0"), models=[profile, model("m")])
    assert where(room.send("load_model", model_id="v")) == "virtual:0"
    assert where(room.send("load_model", model_id="m")) == "cpu:0"
    reply = Room(("cpu:0",), models=[profile]).ask("load_model", model_id="v")
    assert (code(reply), reply["error"]["retryable"]) == ("DEVICE_UNAVAILABLE", False)
    assert "v is a virtual profile: it needs a virtual device" in reply["message"]
    reply = Room(("virtual:0",)).ask("load_model", model_id="m")
    assert (code(reply), reply["error"]["retryable"]) == ("DEVICE_UNAVAILABLE", False)
    assert "m is a real model: it needs a cuda or cpu device" in reply["message"]


def test_the_assignment_carries_the_body_untouched_and_the_model() -> None:
    (effect,) = assigned(Room().send("generate", request_id="r", **FIELDS["generate"]))
    assert b'"a cat"' in effect.body[0]
    header = effect.header
    assert isinstance(header, Assign)
    assert header.model == model("m")
    assert header.deadline_ms == 600_000
    assert header.request_id == "r"


def test_attachments_must_be_those_that_the_payload_names() -> None:
    room = Room()
    named = [{"name": "image-0", "media_type": "image/png", "bytes": 3}]
    fields = {**FIELDS["generate"], "action": "generate", "attachments": named, "strength": 0.5}
    good = room.send_raw(fields, (b"png",))
    assert assigned(good)[0].body[1:] == (b"png",)
    for frames in ((), (b"png!",), (b"png", b"png")):
        wrong = room.send_raw(fields, frames)
        assert code(answer(wrong)) == "INVALID_ARGUMENT"


# holders


def test_unload_goes_to_the_one_holder() -> None:
    room = Room()
    room.holds("cpu:1", residency("m"))
    assert where(room.send("unload_model", model_id="m")) == "cpu:1"


def test_control_commands_pass_a_busy_device() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.send("generate", device_id="cpu:0", **FIELDS["generate"])
    header = header_of(room.send("pin_model", model_id="m"))
    assert (header.device_id, header.lane.value) == ("cpu:0", "control")


@pytest.mark.parametrize("action", ["unload_model", "unpin_model"])
def test_without_a_holder_there_is_nothing_to_do_and_a_warning(action: str) -> None:
    reply = Room().ask(action, model_id="m")
    assert reply["success"]
    assert reply["warnings"]
    if action == "unload_model":
        assert reply["memory_freed"] == 0


@pytest.mark.parametrize("action", ["pin_model", "list_components"])
def test_without_a_holder_other_commands_are_invalid_and_suggest_a_load(action: str) -> None:
    reply = Room().ask(action, model_id="m")
    assert code(reply) == "INVALID_ARGUMENT"
    assert reply["error"]["recovery"][0]["action"] == "load_model"


def test_several_holders_are_all_unloaded_and_their_figures_summed() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:1", residency("m"))
    parts = assigned(room.send("unload_model", request_id="u", model_id="m"))
    assert {part.header.device_id for part in parts if isinstance(part.header, Assign)} == {"cpu:0", "cpu:1"}
    headers = [part.header for part in parts if isinstance(part.header, Assign)]
    assert replies(room.finish(parts[0], unloaded(headers[0], 100))) == []
    reply = answer(room.finish(parts[1], unloaded(headers[1], 50)))
    assert (reply["request_id"], reply["device_id"], reply["model_id"]) == ("u", "all", "m")
    assert (reply["memory_freed"], reply["memory_freed_bytes"], reply["ram_freed"]) == (150, 150, 2)
    assert reply["unload_time_ms"] == 100


@pytest.mark.parametrize("action", ["pin_model", "unpin_model"])
def test_pins_reach_every_holder(action: str) -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:1", residency("m"))
    first, second = assigned(room.send(action, model_id="m"))
    room.finish(first)
    reply = answer(room.finish(second))
    assert (reply["device_id"], reply["success"]) == ("all", True)


def test_a_part_that_fails_fails_the_whole() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:1", residency("m"))
    first, second = assigned(room.send("unload_model", model_id="m"))
    room.finish(first, code=ErrorCode.MODEL_IN_USE)
    assert code(answer(room.finish(second))) == "MODEL_IN_USE"


def test_several_holders_of_a_component_command_are_named() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    room.holds("cpu:1", residency("m"))
    reply = room.ask("list_components", model_id="m")
    assert code(reply) == "INVALID_ARGUMENT"
    assert "cpu:0, cpu:1" in reply["message"]


def test_a_picture_that_the_model_cannot_draw_is_refused_before_any_worker_hears_of_it() -> None:
    room = Room()
    refiner = msgspec.structs.replace(model("m"), modes=[Mode.IMAGE])
    room.entries(refiner)
    reply = room.ask("generate", model_id="m", prompt="x")
    assert code(reply) == "MODEL_INCOMPATIBLE" and "image-to-image, not text-to-image" in reply["message"]
    picture = [{"name": "image-0", "media_type": "image/png", "bytes": 3}]
    payload = {"action": "generate", "request_id": "g", "model_id": "m", "prompt": "x", "attachments": picture}
    assert ids(room.send_raw(payload, attachments=(b"png",))) == ["g"]
    room.entries(msgspec.structs.replace(refiner, modes=[], revision=2))
    assert ids(room.send("generate", request_id="t", model_id="m", prompt="x", device_id="cpu:1")) == ["t"]


@pytest.mark.parametrize(
    ("modes", "attached", "text"),
    [
        ([Mode.INPAINT], ["image-0"], "it needs a picture and one named mask"),
        ([Mode.INPAINT], [], "it needs a picture and one named mask"),
        ([Mode.TEXT, Mode.IMAGE], ["image-0", "mask"], "it takes no attachment named mask"),
        ([Mode.TEXT], ["image-0"], "it takes no picture"),
    ],
)
def test_a_mask_is_asked_for_and_refused_before_any_worker_hears_of_it(
    modes: list[Mode], attached: list[str], text: str
) -> None:
    room = Room()
    room.entries(msgspec.structs.replace(model("m"), modes=modes))
    files = [{"name": name, "media_type": "image/png", "bytes": 3} for name in attached]
    payload = {"action": "generate", "request_id": "g", "model_id": "m", "prompt": "x", "attachments": files}
    reply = answer(room.send_raw(payload, attachments=(b"png",) * len(files)))
    assert code(reply) == "MODEL_INCOMPATIBLE" and text in reply["message"]
    assert reply["error"]["details"]["modes"] == [mode.value for mode in modes]


# the catalogue


def test_a_model_that_a_device_holds_or_will_hold_is_not_unregistered() -> None:
    room = Room()
    room.holds("cpu:1", residency("m"))
    reply = room.ask("unregister_model", model_id="m")
    assert (code(reply), reply["error"]["details"]["device_ids"]) == ("MODEL_IN_USE", ["cpu:1"])
    room.holds("cpu:1")
    (load,) = assigned(room.send("load_model", request_id="l", model_id="m", device_id="cpu:0"))
    assert code(room.ask("unregister_model", model_id="m")) == "MODEL_IN_USE"
    room.finish(load, code=ErrorCode.MODEL_LOADING_FAILED)
    (out,) = assigned(room.send("unregister_model", request_id="u", model_id="m"))
    assert out.worker == CATALOG


def test_no_work_is_taken_for_a_model_while_it_is_unregistered_and_it_is_back_when_that_fails() -> None:
    room = Room()
    (out,) = assigned(room.send("unregister_model", request_id="u", model_id="m"))
    reply = room.ask("load_model", model_id="m")
    assert (code(reply), reply["error"]["retryable"]) == ("MODEL_NOT_FOUND", True)
    assert "request u" in reply["message"]
    room.finish(out, code=ErrorCode.INTERNAL_ERROR)
    assert ids(room.send("load_model", request_id="l", model_id="m")) == ["l"]


def test_what_was_measured_of_a_model_that_is_unregistered_is_forgotten() -> None:
    room = Room()
    estimates = room.core.context.estimates
    estimates.learn(model("m"), "cpu", Shape("load_model"), RunFacts(load_ms=900.0, source=LoadSource.DISK), 0.0)
    estimates.learn(model("o"), "cpu", Shape("load_model"), RunFacts(load_ms=900.0, source=LoadSource.DISK), 0.0)
    assert Estimates(estimates.encode()).of(model("m"), "cpu").load_samples(Tier.DISK) == 1
    (out,) = assigned(room.send("unregister_model", request_id="u", model_id="m"))
    room.entries(removed=["m"])
    room.finish(out)
    kept = Estimates(estimates.encode())
    assert [kept.of(model(name), "cpu").load_samples(Tier.DISK) for name in ("m", "o")] == [0, 1]
    assert code(room.ask("load_model", model_id="m")) == "MODEL_NOT_FOUND"


def test_a_load_of_an_unknown_id_with_a_path_registers_first() -> None:
    room = Room()
    (first,) = assigned(room.send("load_model", request_id="l", model_id="new", model_path="/models/new.safetensors"))
    assert (first.worker, first.header.action) == (CATALOG, "register_model")
    room.entries(model("new"))
    (second,) = assigned(room.finish(first))
    assert (second.header.action, second.header.model) == ("load_model", model("new"))
    assert answer(room.finish(second))["request_id"] == "l"


def test_a_refused_registration_is_the_loads_answer() -> None:
    room = Room()
    (first,) = assigned(room.send("load_model", request_id="l", model_path="/models/evil.ckpt"))
    reply = answer(room.finish(first, code=ErrorCode.UNSAFE_MODEL))
    assert (reply["request_id"], reply["action"], code(reply)) == ("l", "load_model", "UNSAFE_MODEL")


def test_commands_before_the_catalogue_is_ready_wait_and_are_decided_then() -> None:
    room = Room(models=None)
    assert replies(room.send("load_model", request_id="a", model_id="m")) == []
    assert replies(room.send("load_model", request_id="b", model_id="zzz")) == []
    assert replies(room.send("list_models", request_id="c")) == []
    assert replies(room.send("get_vram_model_status", request_id="d", model_id="zzz")) == []
    room.register_catalog()
    assert "c" in ids(room.new())
    room.entries(model("m"), complete=True)
    effects = room.new()
    assert ids(effects) == ["a"]
    assert {(reply["request_id"], code(reply)) for reply in replies(effects)} == {
        ("b", "MODEL_NOT_FOUND"),
        ("d", "MODEL_NOT_FOUND"),
    }


def test_a_command_that_waits_for_the_catalogue_keeps_its_deadline() -> None:
    room = Room(models=None)
    room.send("load_model", model_id="m", timeout_seconds=3)
    assert replies(room.wait(2.9)) == []
    assert code(answer(room.wait(0.2))) == "TIMEOUT"
    room.register_catalog()
    room.entries(model("m"), complete=True)
    assert assigned(room.new()) == []


def test_the_catalogue_sees_the_devices_before_a_command_that_could() -> None:
    room = Room()
    room.holds("cpu:1", residency("m"))
    effects = room.send("list_models")
    kinds = [type(effect.header) for effect in to_workers(effects, Devices) + assigned(effects)]
    assert kinds == [Devices, Assign]
    assert to_workers(room.send("list_models"), Devices) == []


def test_worker_replies_are_forwarded_untouched_with_their_attachments() -> None:
    room = Room()
    (effect,) = assigned(room.send("generate", request_id="r", **FIELDS["generate"]))
    header = effect.header
    assert isinstance(header, Assign)
    written = encode_reply(success_of(header), header.spelling)
    (reply,) = sent(room.finish(effect, attachments=(b"png",)))
    assert reply.frames == (written, b"png")


def test_a_part_comes_from_a_model_that_the_catalogue_knows() -> None:
    room = Room()
    room.holds("cpu:0", residency("m"))
    fields = {"model_id": "m", "component": "vae"}
    (part,) = assigned(room.send("load_component", source_model_id="n", **fields))
    assert part.header.source is not None and part.header.source.model_id == "n"
    assert part.header.model is not None and part.header.model.model_id == "m"
    reply = room.ask("load_component", source_model_id="nn", **fields)
    assert code(reply) == "MODEL_NOT_FOUND" and reply["message"].startswith("source_model_id is 'nn'")
    assert reply["error"]["details"]["nearest"] == ["n"]


def test_parts_go_to_the_one_that_holds_the_model_and_nowhere_where_none_does() -> None:
    room = Room()
    fields = {"component": "lora", "path": "/models/style.safetensors"}
    reply = room.ask("load_component", model_id="m", **fields)
    assert code(reply) == "INVALID_ARGUMENT" and reply["error"]["recovery"][0]["action"] == "load_model"
    room.holds("cpu:1", residency("m"))
    (part,) = assigned(room.send("load_component", model_id="m", **fields))
    assert part.header.device_id == "cpu:1" and part.header.source is None
    room.holds("cpu:0", residency("m"))
    reply = room.ask("unload_component", model_id="m", component="lora")
    assert code(reply) == "INVALID_ARGUMENT" and "cpu:0" in reply["message"]


# the log


def ended(effects: Any) -> list[dict[str, Any]]:
    """The log's lines about commands that ended."""
    return [effect.fields for effect in effects if isinstance(effect, Log) and effect.event == "command ended"]


def test_a_command_that_is_refused_leaves_a_line_with_what_its_sender_was_told() -> None:
    room = Room()
    effects = room.send("load_model", model_id="nope", request_id="r1")
    (line,) = ended(effects)
    assert (line["request_id"], line["action"], line["code"]) == ("r1", "load_model", "MODEL_NOT_FOUND")
    assert line["text"] == answer(effects)["message"] and line["state"] == "failed" and line["ms"] >= 0
    assert not ended(room.send("ping")) and not ended(room.send("cancel", target_request_id="nope"))


def test_nonsense_fills_no_disk() -> None:
    room = Room()
    lines = [ended(room.send("load_model", model_id="nope")) for _ in range(100)]
    assert sum(map(len, lines)) == MOST_A_SECOND
    room.wait(1)
    effects = room.send("load_model", model_id="nope")
    assert len(ended(effects)) == 1
    (more,) = [effect for effect in effects if isinstance(effect, Log) and effect.event == "more commands ended"]
    assert more.fields["count"] == 100 - MOST_A_SECOND
