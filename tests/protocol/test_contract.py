"""The structs say what the contract's tables say: names, types, defaults, ordinals, actions, limits, codes."""

from __future__ import annotations

import enum
from typing import Any

import contract_tables
import msgspec
import pytest
from contract_tables import HostField, HostType
from msgspec import NODEFAULT
from msgspec import inspect as mi

from protocol import commands as c
from protocol import enums, records
from protocol import replies as r
from protocol.actions import ACTIONS, ALIASES, BY_COMMAND
from protocol.dialect import HOST_FIELDS, camel, pascal
from protocol.enums import Lane, WireEnum
from protocol.errors import ErrorCode, ErrorInfo, Recovery
from protocol.telemetry import MemoryPressure

RECORDS, ENUMS = contract_tables.read()
NAMED_OTHERWISE: dict[str, type[msgspec.Struct]] = {
    "ListModelsRequest": c.ListModels,
    "GetModelRequest": c.GetModelInfo,
    "LoadModelRequest": c.LoadModel,
    "UnloadModelRequest": c.UnloadModel,
    "ValidateModelRequest": c.ValidateModel,
    "OptimizeModelRequest": c.OptimizeModel,
    "BenchmarkModelRequest": c.BenchmarkModel,
    "GetModelStatusRequest": c.GetVramModelStatus,
    "SearchModelsRequest": c.SearchModels,
    "UpdateModelMetadataRequest": c.UpdateMetadata,
    "ListModelsResponse": r.ListModelsReply,
    "GetModelResponse": r.GetModelInfoReply,
    "LoadModelResponse": r.LoadModelReply,
    "UnloadModelResponse": r.UnloadModelReply,
    "ValidateModelResponse": r.ValidateModelReply,
    "OptimizeModelResponse": r.OptimizeModelReply,
    "BenchmarkModelResponse": r.BenchmarkModelReply,
    "GetModelStatusResponse": r.GetVramModelStatusReply,
    "SearchModelsResponse": r.SearchModelsReply,
    "UpdateModelMetadataResponse": r.UpdateMetadataReply,
}
WIDER = {
    ("ListModelsRequest", "device_id"): "text of every command, empty for none; null is tolerated",
    ("LoadModelRequest", "configuration"): "absent is content with the model as it is",
    ("OptimizeModelRequest", "target"): "absent where the seed's word stands",
}
"""Requests that take more than the host's type, and why."""
ACTION_TIMEOUTS = {"LoadModelRequest": "load_model", "UnloadModelRequest": "unload_model"}
ACTION_TIMEOUTS |= {"OptimizeModelRequest": "optimize_model"}
SCALARS: dict[str, type[mi.Type]] = {
    "str": mi.StrType,
    "int": mi.IntType,
    "float": mi.FloatType,
    "bool": mi.BoolType,
    "any JSON value": mi.AnyType,
    "datetime (UTC)": mi.DateTimeType,
}


def struct_of(name: str, *, inside_model_info: bool = False) -> type[Any]:
    if name == "ModelMemoryUsage" and inside_model_info:
        return records.ModelTierUsage
    return NAMED_OTHERWISE.get(name) or getattr(records, name)  # type: ignore[no-any-return]


def the_struct(host: HostType) -> type[Any]:
    return struct_of(host.name, inside_model_info=host.fields[0].wire == "ram_usage")


def our_field(host: HostType, field: HostField) -> mi.Field:
    cls = the_struct(host)
    renamed = {wire: name for name, wire in HOST_FIELDS.get(cls, {}).items() if wire is not None}
    info = mi.type_info(cls)
    assert isinstance(info, mi.StructType)
    return {known.name: known for known in info.fields}[renamed.get(field.wire, field.wire)]


ROWS = [pytest.param(host, field, id=f"{host.name}.{field.host}") for host in RECORDS for field in host.fields]
TYPES = [pytest.param(host, id=f"{host.name}.{host.fields[0].wire}") for host in RECORDS]


def test_the_page_was_read_whole() -> None:
    assert len(RECORDS) == 46
    assert len(ENUMS) == 15
    assert len(ROWS) > 250


@pytest.mark.parametrize(("host", "field"), ROWS)
def test_every_field_has_its_wire_name_and_type(host: HostType, field: HostField) -> None:
    ours = our_field(host, field)
    if (host.name, field.wire) in WIDER:
        return
    if field.wire == "timeout_seconds":
        assert isinstance(ours.type, mi.UnionType)
        return
    optional = field.type.endswith(" or null")
    kind = ours.type
    assert isinstance(kind, mi.UnionType) == optional
    if isinstance(kind, mi.UnionType):
        kind = next(member for member in kind.types if not isinstance(member, mi.NoneType))
    assert_type(kind, field.type.removesuffix(" or null"), inside_model_info=host.name == "ModelInfo")


def assert_type(kind: mi.Type, written: str, *, inside_model_info: bool) -> None:
    if written in SCALARS:
        assert isinstance(kind, SCALARS[written])
    elif written.startswith("list["):
        assert isinstance(kind, mi.ListType)
        assert_type(kind.item_type, written[5:-1], inside_model_info=inside_model_info)
    elif written.startswith("dict["):
        key, _, item = written[5:-1].partition(", ")
        assert isinstance(kind, mi.DictType)
        assert_type(kind.key_type, key, inside_model_info=inside_model_info)
        assert_type(kind.value_type, item, inside_model_info=inside_model_info)
    elif written in ENUMS:
        assert isinstance(kind, mi.EnumType)
        assert kind.cls is getattr(enums, written)
    else:
        assert isinstance(kind, mi.StructType)
        assert kind.cls is struct_of(written, inside_model_info=inside_model_info)


@pytest.mark.parametrize(("host", "field"), ROWS)
def test_every_field_has_its_default(host: HostType, field: HostField) -> None:
    if (host.name, field.wire) in WIDER or host.name.endswith("Response"):
        return
    if field.wire == "timeout_seconds":
        assert ACTIONS[ACTION_TIMEOUTS[host.name]].timeout_seconds == float(field.default)
        return
    ours = our_field(host, field)
    if field.default == "now" or field.type == "ModelInfo":
        assert ours.required
        return
    default = ours.default if ours.default is not NODEFAULT else ours.default_factory()
    assert told(default) == expected(field), (default, field)


def told(default: Any) -> Any:
    if isinstance(default, enum.Enum):
        return default.value
    if isinstance(default, list):
        return ", ".join(told(item) for item in default) or "empty"
    if isinstance(default, dict):
        return default or "empty"
    if isinstance(default, msgspec.Struct):
        return "empty" if default == type(default)() else default
    return default


def expected(field: HostField) -> Any:
    """A default as the page writes it; without one, .NET's own."""
    if field.type.endswith(" or null"):
        return None
    if field.default:
        literal = {"true": True, "false": False, '""': ""}
        if field.default in literal:
            return literal[field.default]
        return float(field.default) if field.type in {"int", "float"} else field.default
    zero: dict[str, Any] = {"int": 0, "float": 0.0, "bool": False, "str": ""}
    if field.type in ENUMS:
        return next(name for name, ordinal in ENUMS[field.type].items() if ordinal == 0)
    return zero[field.type]


@pytest.mark.parametrize(("host", "field"), ROWS)
def test_every_field_is_spelled_as_the_host_spells_it(host: HostType, field: HostField) -> None:
    ours = our_field(host, field)
    spelled = HOST_FIELDS.get(the_struct(host), {}).get(ours.name, ours.name)
    assert spelled is not None
    assert pascal(spelled) == field.host


@pytest.mark.parametrize("host", TYPES)
def test_camel_case_is_dotnets(host: HostType) -> None:
    for field in host.fields:
        assert camel(field.wire) == dotnet_camel(field.host)


def dotnet_camel(name: str) -> str:
    """System.Text.Json's JsonCamelCaseNamingPolicy, restated: lower the leading capitals, but not a word's own."""
    run = next((index for index, letter in enumerate(name) if not letter.isupper()), len(name))
    lowered = run if run in {0, 1, len(name)} else run - 1
    return name[:lowered].lower() + name[lowered:]


@pytest.mark.parametrize(
    ("wire", "spelled"),
    [
        ("ram_usage", "ramUsage"),
        ("vram_usage", "vramUsage"),
        ("min_vram", "minVRAM"),
        ("is_cached_in_ram", "isCachedInRAM"),
        ("enable_tensor_rt", "enableTensorRT"),
        ("supports_lora", "supportsLoRA"),
        ("used_vram", "usedVram"),
        ("id", "id"),
    ],
)
def test_camel_case_examples(wire: str, spelled: str) -> None:
    assert camel(wire) == spelled


@pytest.mark.parametrize("name", ENUMS)
def test_every_enum_has_the_hosts_ordinals(name: str) -> None:
    ours: type[WireEnum] = getattr(enums, name)
    ordinals = {member.value: member.ordinal for member in ours}
    assert {member: ordinals[member] for member in ENUMS[name]} == ENUMS[name]
    added = set(ordinals.values()) - set(ENUMS[name].values())
    assert all(ordinal > max(ENUMS[name].values()) for ordinal in added)
    assert len(set(ordinals.values())) == len(ordinals)


def test_members_that_the_host_lacks_have_the_ordinals_of_the_wire() -> None:
    extra = {
        (member.__class__.__name__, str(member.value)): member.ordinal
        for name in ENUMS
        for member in getattr(enums, name)
        if member.value not in ENUMS[name]
    }
    assert extra == {
        ("ModelPrecision", "BFloat16"): 5,
        ("ModelPrecision", "Float8"): 6,
        ("PrecisionMode", "BFloat16"): 3,
        ("PrecisionMode", "Int4"): 4,
        ("PrecisionMode", "Float8"): 5,
        ("ModelType", "SD3"): 11,
        ("ModelType", "SD21"): 12,
        ("ComponentType", "Transformer"): 10,
        ("ComponentType", "TextEncoder3"): 11,
        ("ComponentType", "ImageEncoder"): 12,
    }


LANES = {
    Lane.BROKER: {"ping", "hello", "list_devices", "get_result", "explain", "plan"},
    Lane.CATALOG: {
        "list_models",
        "get_model_info",
        "search_models",
        "update_metadata",
        "scan_models",
        "register_model",
        "unregister_model",
    },
    Lane.CONTROL: {"get_vram_model_status", "pin_model", "unpin_model", "list_components", "cancel"},
    Lane.DEVICE: {
        "load_model",
        "unload_model",
        "validate_model",
        "optimize_model",
        "benchmark_model",
        "load_component",
        "unload_component",
        "generate",
    },
    Lane.ADMIN: {"drain_device", "resume_device", "restart_worker"},
}
TIMEOUTS = {
    "generate": 600,
    "load_model": 300,
    "load_component": 300,
    "unload_component": 300,
    "unload_model": 60,
    "validate_model": 120,
    "optimize_model": 1800,
    "benchmark_model": 1800,
    "scan_models": 600,
    "update_metadata": 30,
}


def test_every_action_is_there_in_its_lane() -> None:
    assert {lane: {a.name for a in ACTIONS.values() if a.lane is lane} for lane in Lane} == LANES


def test_every_alias_leads_to_its_action() -> None:
    assert {alias: name for alias, name in ALIASES.items() if alias != name} == {
        "get_model": "get_model_info",
        "update_model_metadata": "update_metadata",
        "get_model_status": "get_vram_model_status",
    }


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_has_its_default_deadline(name: str) -> None:
    assert ACTIONS[name].timeout_seconds == TIMEOUTS.get(name, 10)


@pytest.mark.parametrize("name", ACTIONS)
def test_every_action_has_a_struct_of_its_own_that_the_strict_decoder_knows(name: str) -> None:
    action = ACTIONS[name]
    assert action.command.__struct_config__.tag == name
    assert BY_COMMAND[action.command] is action
    assert action.command in c.AnyCommand.__args__


BEYOND_THE_HOST = {
    "load_model": "model_path config_path model_type loading_strategy cache_optimized coordination_mode keep_alive pin",
    "generate": "model_id prompt negative_prompt width height steps guidance_scale seed num_images scheduler loras "
    "strength image_format delivery load_if_needed allow_degraded",
    "load_component": "model_id component path source_model_id name scale",
    "unload_component": "model_id component path source_model_id name scale",
    "list_components": "model_id device_id",
    "pin_model": "model_id device_id",
    "unpin_model": "model_id device_id",
    "scan_models": "roots hash",
    "register_model": "model_path model_id model_type metadata",
    "cancel": "target_request_id",
    "get_result": "target_request_id",
    "explain": "target_request_id",
    "plan": "model_path configuration keep_alive force",
    "list_devices": "device_id",
    "hello": "conventions",
    "update_metadata": "metadata revision write_header",
    "validate_model": "model_path validation_level file_validation_context model_type",
    "optimize_model": "optimization_target target level parameters memory_pressure_context coordination_mode",
    "benchmark_model": "benchmark_type",
    "unload_model": "force_unload",
    "unregister_model": "model_id",
    "list_models": "sort_direction",
    "search_models": "sort_direction",
    "get_vram_model_status": "coordination_mode",
}
EVERY_COMMAND = (
    "request_id device_id priority timeout_seconds wait_for_completion stream_progress conventions attachments"
)
REPLIES = {
    "load_model": "memory_usage memory_added load_time options cache coordination device_id model_id memory_pressure",
    "unload_model": "memory_freed ram_freed",
    "generate": "seed images steps_done timing attachments",
    "list_components": "components",
    "scan_models": "added updated missing rejected",
    "register_model": "model",
    "unregister_model": "model_id file_path left_out",
    "cancel": "outcome",
    "get_result": "job_state result position device_id progress",
    "explain": "candidates chosen evictions waits passes",
    "plan": "fits device_id bytes_needed peak_bytes evictions estimated_ms candidates",
    "list_devices": "devices",
    "hello": "server version protocol epoch actions limits conventions",
    "update_metadata": "revision validation_results",
    "get_vram_model_status": "models used_vram available_vram total_vram devices",
    "validate_model": "is_valid validation_details issues",
    "optimize_model": "optimization_time memory_freed vram_usage_after options coordination",
    "benchmark_model": "avg_inference_time min_inference_time max_inference_time throughput memory_peak memory_avg "
    "total_time",
}
EVERY_REPLY = "request_id action success state message warnings error timing not_measured"


@pytest.mark.parametrize("name", ACTIONS)
def test_every_command_has_the_fields_that_the_wire_gives_it(name: str) -> None:
    wanted = set(f"{EVERY_COMMAND} {BEYOND_THE_HOST.get(name, '')}".split())
    assert wanted <= set(ACTIONS[name].command.__struct_fields__)


@pytest.mark.parametrize("name", ACTIONS)
def test_every_reply_has_the_fields_that_the_wire_gives_it(name: str) -> None:
    wanted = set(f"{EVERY_REPLY} {REPLIES.get(name, '')}".split())
    assert wanted <= set(ACTIONS[name].reply.__struct_fields__)


@pytest.mark.parametrize(
    ("cls", "names"),
    [
        (
            r.DeviceInfo,
            "device_id uuid name kind state total_vram used_vram free_vram models memory_pressure telemetry "
            "queue_depth running pid generation restarts uptime_seconds",
        ),
        (r.HeldModel, "model_id tier bytes precision pinned sessions last_used"),
        (r.RunningCommand, "request_id action model_id started_at step steps"),
        (
            r.StatusEntry,
            "model_id device_id tier tiers bytes precision pinned sessions last_used health telemetry",
        ),
        (r.GeneratedImage, "name media_type width height bytes sha256 path data nsfw_content_detected"),
        (r.Candidate, "device_id score terms excluded_because"),
        (r.OptionOutcome, "option requested applied reason evidence"),
        (r.ValidationIssue, "severity code message field recovery"),
        (r.Coordination, "mode honoured ignored ram_tier"),
        (r.RamTier, "bytes budget_bytes released_bytes"),
        (ErrorInfo, "code message retryable retry_after_ms details recovery"),
        (Recovery, "action description parameters"),
        (MemoryPressure, "level used_bytes reclaimable_bytes total_bytes utilization pressure"),
        (r.RejectedFile, "path code reason"),
        (r.JobProgress, "step steps eta_ms"),
        (c.FileValidationContext, "file_exists file_size model_type cache_available"),
        (c.MemoryPressureContext, "cache_utilization memory_pressure_detected model_in_cache cache_size_mb"),
        (c.LoraUse, "name scale"),
        (c.Attachment, "name media_type bytes"),
        (c.Conventions, "naming enums"),
    ],
)
def test_every_small_record_of_the_wire_has_exactly_its_fields(cls: type[msgspec.Struct], names: str) -> None:
    assert set(cls.__struct_fields__) == set(names.split())


def test_the_seeds_model_has_its_flat_fields() -> None:
    flat = "id name description type version size_bytes file_path checksum updated_at"
    assert set(flat.split()) <= set(records.ModelInfo.__struct_fields__)


def test_timing_has_a_figure_for_each_phase() -> None:
    phases = (
        "read build promote free encode denoise decode header tensors hash shapes before steps after save warmup runs "
        "query queue total"
    )
    assert {f"{phase}_ms" for phase in phases.split()} <= set(r.Timing.__struct_fields__)


@pytest.mark.parametrize(
    ("words", "members"),
    [
        ("completed failed cancelled accepted progress", enums.ReplyState),
        ("queued running final unknown", enums.JobState),
        ("starting ready busy draining drained lost disabled", enums.DeviceState),
        ("vram ram disk", enums.Tier),
        ("normal elevated high critical", enums.PressureLevel),
        ("info warning error", enums.Severity),
        ("cancelled cancelling already_finished unknown", enums.CancelOutcome),
        ("ram_to_vram cache_and_vram_sync cache_and_vram_optimization", enums.CoordinationMode),
        ("default fast low_memory lazy", enums.LoadingStrategy),
        ("basic standard comprehensive", enums.ValidationLevel),
        ("Performance Inference Compute Memory Stability Power Mixed Stress", enums.BenchmarkType),
        ("none fast full", enums.HashDepth),
        ("png webp jpeg", enums.ImageFormat),
        ("attachment path base64", enums.Delivery),
        (
            "vae unet transformer text_encoder text_encoder_2 tokenizer scheduler lora controlnet textual_inversion",
            enums.ComponentRole,
        ),
        ("snake camel pascal", enums.Naming),
        ("name number", enums.EnumForm),
        ("disk ram vram", enums.LoadSource),
    ],
)
def test_every_closed_set_of_words_is_the_wires(words: str, members: type[enum.Enum]) -> None:
    assert {member.value for member in members} == set(words.split())


def test_the_limits_are_the_wires() -> None:
    limits = msgspec.structs.asdict(r.Limits())
    assert limits == {
        "queued_per_client": 1024,
        "queued_per_device": 4096,
        "queued_total": 16_384,
        "payload_bytes": 1024 * 1024,
        "payload_depth": 64,
        "attachments": 16,
        "attachments_bytes": 128 * 1024 * 1024,
        "page_size": 1000,
        "steps": 10_000,
        "num_images": 64,
        "min_side": 8,
        "max_side": 8192,
        "side_multiple": 8,
        "prompt_bytes": 16 * 1024,
        "benchmark_runs": 10_000,
        "warmup_runs": 10_000,
        "request_id_chars": 128,
    }


def test_the_error_codes_are_the_wires() -> None:
    codes = """MALFORMED_MESSAGE UNKNOWN_ACTION MISSING_PARAMETER INVALID_ARGUMENT NOT_SUPPORTED UNAUTHORIZED
    MODEL_NOT_FOUND MODEL_INCOMPATIBLE MODEL_CORRUPTED UNSAFE_MODEL MODEL_LOADING_FAILED MODEL_IN_USE
    INSUFFICIENT_MEMORY DEVICE_NOT_FOUND DEVICE_UNAVAILABLE WORKER_LOST QUEUE_FULL TIMEOUT CANCELLED SUPERSEDED
    INFERENCE_FAILED DUPLICATE_REQUEST DRAINING INTERNAL_ERROR"""
    assert {code.value for code in ErrorCode} == set(codes.split())
    assert all(code.name == code.value for code in ErrorCode)
