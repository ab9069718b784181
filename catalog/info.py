"""A model as the wire shows it: `ModelInfo` from an entry, its residency and its use.

Decides what each field says and, where nothing says it, the reason in `not_measured`.
"""

from __future__ import annotations

from collections.abc import Sequence

from catalog import presence, said, traits
from catalog.entry import Entry
from catalog.presence import Holding
from catalog.usage import Totals, performance
from modelfiles.model import Part
from protocol.enums import ComponentStatus, ComponentType, ModelStatus, ModelType, Tier
from protocol.records import (
    ModelCapabilities,
    ModelComponent,
    ModelInfo,
    ModelMetadata,
    ModelPerformance,
    ModelRequirements,
    Record,
)

NOT_STATED = "the file states none"
NO_RUNS = "no run on a device was recorded"
BY_DEVICE = "depends on the device and its driver"
TEXT_ENCODER = "text_encoder"


class Include(Record, frozen=True, kw_only=True):
    """Which parts a reply was asked for; a part not asked for names its reason."""

    metadata: bool = True
    components: bool = True
    capabilities: bool = True
    requirements: bool = True
    performance: bool = True
    reason: str = "not asked for"


class Shown(Record, frozen=True, kw_only=True):
    """A model and the fields of it that have no figure: path below the model → reason."""

    info: ModelInfo
    not_measured: dict[str, str]


def show(entry: Entry, holdings: Sequence[Holding], totals: Sequence[Totals], include: Include) -> Shown:
    """The whole ModelInfo; parts that `include` leaves out are empty."""
    info = ModelInfo(
        id=entry.id,
        name=said.name_of(entry),
        type=entry.type,
        version=said.version_of(entry),
        description=said.description_of(entry),
        file_path=entry.file.path,
        file_size=entry.file.size_bytes,
        hash=entry.checksum,
        status=presence.status_of(entry.status, holdings),
        loading_status=presence.loading_status_of(holdings),
        components=components(entry, holdings) if include.components else [],
        capabilities=traits.capabilities(entry) if include.capabilities else ModelCapabilities(),
        requirements=traits.requirements(entry, totals) if include.requirements else ModelRequirements(),
        metadata=said.metadata_of(entry) if include.metadata else ModelMetadata(),
        loaded_on_devices=presence.loaded_on(holdings),
        memory_usage=presence.tier_usage(holdings, max((t.peak_bytes for t in totals), default=0)),
        performance=performance(totals) if include.performance else ModelPerformance(),
        last_updated=entry.updated_at,
        size_bytes=entry.file.size_bytes,
        checksum=entry.checksum,
        updated_at=entry.updated_at,
        revision=entry.revision,
    )
    return Shown(info=info, not_measured=_not_measured(info, entry, totals, include))


def components(entry: Entry, holdings: Sequence[Holding]) -> list[ModelComponent]:
    """Every part of the model, held or not."""
    names = {part.name for part in entry.file.parts}
    return [_component(entry, part, names, holdings) for part in entry.file.parts]


def _component(entry: Entry, part: Part, names: set[str], holdings: Sequence[Holding]) -> ModelComponent:
    held = presence.parts_held(holdings, part.name)
    in_vram = [device_id for device_id, residency in held if residency.tier is Tier.VRAM]
    tokenizer = part.name.replace(TEXT_ENCODER, "tokenizer") if part.name.startswith(TEXT_ENCODER) else ""
    return ModelComponent(
        id=f"{entry.id}/{part.name}",
        name=part.name,
        type=part.type,
        file_path=part.files[0] if len(part.files) == 1 else part.path,
        size=part.size_bytes,
        status=_component_status(entry, bool(in_vram), bool(held), holdings),
        is_cached_in_ram=any(residency.tier is Tier.RAM for _, residency in held)
        or any(held_model.ram_bytes > 0 for held_model in holdings if presence.parts_held([held_model], part.name)),
        is_loaded_in_vram=bool(in_vram),
        loaded_on_devices=in_vram,
        dependencies=[tokenizer] if tokenizer in names else [],
        memory_usage=sum(residency.bytes for _, residency in held),
    )


def _component_status(entry: Entry, is_loaded: bool, is_held: bool, holdings: Sequence[Holding]) -> ComponentStatus:
    if is_loaded:
        return ComponentStatus.Loaded
    if is_held:
        return ComponentStatus.Cached
    if any(holding.model.status is ModelStatus.Loading for holding in holdings):
        return ComponentStatus.Loading
    return ComponentStatus.Available if entry.status is ModelStatus.Available else ComponentStatus.Error


def _not_measured(info: ModelInfo, entry: Entry, totals: Sequence[Totals], include: Include) -> dict[str, str]:
    reasons: dict[str, str] = {}
    if not info.version:
        reasons["version"] = NOT_STATED
    if not info.description:
        reasons["description"] = NOT_STATED
    if info.type is ModelType.Unknown:
        reasons["type"] = "the tensors fit no known family"
    if not info.checksum:
        reasons["hash"] = reasons["checksum"] = "not hashed yet; scan_models does"
    if not info.memory_usage.peak_usage:
        reasons["memory_usage.peak_usage"] = NO_RUNS
    reasons |= _part("metadata", include.metadata, include.reason, _metadata_reasons(info.metadata))
    reasons |= _part("requirements", include.requirements, include.reason, _requirement_reasons())
    reasons |= _part("capabilities", include.capabilities, include.reason, _capability_reasons(info.capabilities))
    reasons |= _part("performance", include.performance, include.reason, _performance_reasons(totals))
    reasons |= _part("components", include.components, include.reason, _component_reasons(info.components))
    return reasons


def _part(name: str, is_included: bool, left_out: str, reasons: dict[str, str]) -> dict[str, str]:
    if not is_included:
        return {name: left_out}
    return {f"{name}{field}": reason for field, reason in reasons.items()}


def _metadata_reasons(metadata: ModelMetadata) -> dict[str, str]:
    fields = ("author", "license", "tags", "training_parameters", "configuration")
    return {f".{field}": NOT_STATED for field in fields if not getattr(metadata, field)}


def _requirement_reasons() -> dict[str, str]:
    return {".min_compute_capability": BY_DEVICE, ".required_driver_versions": BY_DEVICE}


def _capability_reasons(capabilities: ModelCapabilities) -> dict[str, str]:
    reasons = {}
    if not capabilities.max_resolution.width:
        reasons[".max_resolution.width"] = reasons[".max_resolution.height"] = "this makes no pictures by itself"
    if not capabilities.supported_precisions:
        reasons[".supported_precisions"] = "the file's number type has no name here"
    return reasons


def _performance_reasons(totals: Sequence[Totals]) -> dict[str, str]:
    if not any(t.runs or t.loads for t in totals):
        return {"": NO_RUNS}
    reasons = {}
    if not any(t.loads for t in totals):
        reasons[".average_loading_time"] = "no load from disk or RAM was recorded"
    if not any(t.runs for t in totals):
        reasons |= {f".{field}": NO_RUNS for field in ("average_inference_time", "device_performance")}
    if not any(t.images for t in totals):
        reasons[".inference_throughput"] = NO_RUNS
    return reasons


def _component_reasons(listed: Sequence[ModelComponent]) -> dict[str, str]:
    return {
        f"[{index}].type": "the host has no name for this part"
        for index, component in enumerate(listed)
        if component.type is ComponentType.Unknown
    }
