"""`get_vram_model_status`: what every device holds, from what its worker reported last."""

from __future__ import annotations

from collections.abc import Sequence

from broker.core.context import Context
from broker.core.fleet import Device
from broker.core.jobs import Job
from broker.core.together import ALL, merge_pressure
from protocol import commands as c
from protocol import replies as r
from protocol.enums import CoordinationMode, DeviceKind, JobState, ModelPrecision, ModelStatus, Tier
from protocol.records import DevicePerformance, ModelMemoryUsage, ModelPerformance
from protocol.telemetry import MemoryPressure, ModelResidency

_NOT_HELD = "no device holds the model"


def model_status(job: Job, command: c.GetVramModelStatus, context: Context) -> r.GetVramModelStatusReply:
    """The status of one model or of all, on one device or on all. Raises MODEL_NOT_FOUND."""
    named = context.fleet.find(command.device_id)
    devices = [named] if named is not None else list(context.fleet.devices.values())
    if command.model_id and command.model_id not in context.catalogue.models and context.catalogue.ready:
        raise context.catalogue.unknown(command.model_id)
    held = [(device, model) for device in devices for model in _held(device, command.model_id)]
    now = context.clock()
    infos = [device.info(now, draining=context.draining) for device in devices]
    used = sum(info.used_vram for info in infos)
    total = sum(info.total_vram for info in infos)
    residencies = [model for _, model in held]
    status = _status(command, residencies, devices, context)
    one = bool(command.model_id)
    missing = _missing(command, residencies)
    return r.GetVramModelStatusReply(
        request_id=job.request_id,
        action=job.action.name,
        message=_description(command, held, status),
        not_measured=missing,
        device_id=_device_id(command, held, named),
        model_id=command.model_id,
        memory_pressure=_pressure(devices, held, named),
        models=[_entry(device, model) for device, model in held] + _on_disk(command, residencies, context),
        used_vram=used,
        available_vram=total - used,
        total_vram=total,
        status=status,
        status_description=_description(command, held, status),
        memory_usage=_memory(residencies) if one and command.include_memory_usage and residencies else None,
        performance_metrics=_performance(held) if one and command.include_performance and residencies else None,
        active_sessions=_sessions(command, context) if command.include_sessions else None,
        health_score=min((model.health for model in residencies), default=1.0),
        last_updated=max((model.last_used for model in residencies), default=context.wall()),
        devices=infos,
        coordination=_coordination(command, devices),
    )


def _held(device: Device, model_id: str) -> list[ModelResidency]:
    return [model for model in device.models.values() if not model_id or model.model_id == model_id]


def _entry(device: Device, model: ModelResidency) -> r.StatusEntry:
    return r.StatusEntry(
        model_id=model.model_id,
        device_id=device.device_id,
        tier=model.tier,
        tiers=model.tiers,
        bytes=model.bytes,
        precision=model.precision,
        pinned=model.pinned,
        sessions=model.sessions,
        last_used=model.last_used,
        health=model.health,
        telemetry=device.telemetry,
    )


def _on_disk(
    command: c.GetVramModelStatus, residencies: Sequence[ModelResidency], context: Context
) -> list[r.StatusEntry]:
    """Models on disk alone, for a host that reconciles its own cache."""
    if command.coordination_mode is not CoordinationMode.CACHE_AND_VRAM_SYNC or command.device_id not in ("", "auto"):
        return []
    held = {model.model_id for model in residencies}
    return [
        r.StatusEntry(
            model_id=model.model_id,
            device_id=None,
            tier=Tier.DISK,
            tiers=[Tier.DISK],
            bytes=model.size_bytes,
            precision=ModelPrecision.Auto,
        )
        for model in context.catalogue.models.values()
        if model.model_id not in held
        and model.status is not ModelStatus.Missing
        and command.model_id in ("", model.model_id)
    ]


def _status(
    command: c.GetVramModelStatus,
    residencies: Sequence[ModelResidency],
    devices: Sequence[Device],
    context: Context,
) -> ModelStatus:
    if not command.model_id:
        return ModelStatus.Unknown
    statuses = {model.status for model in residencies}
    running = [device.running for device in devices if device.running is not None]
    if any(job.model_id == command.model_id and isinstance(job.command, c.UnloadModel) for job in running):
        return ModelStatus.Unloading
    for status in (ModelStatus.Loaded, ModelStatus.Loading, ModelStatus.Unloading, ModelStatus.Error):
        if status in statuses:
            return status
    if any(job.model_id == command.model_id and isinstance(job.command, c.LoadModel) for job in running):
        return ModelStatus.Loading
    known = context.catalogue.models.get(command.model_id)
    return known.status if known is not None else ModelStatus.Unknown


def _description(
    command: c.GetVramModelStatus, held: Sequence[tuple[Device, ModelResidency]], status: ModelStatus
) -> str:
    if not command.model_id:
        count = len({model.model_id for _, model in held})
        return f"{count} models held"
    places = ", ".join(f"{device.device_id} ({model.tier.value})" for device, model in held)
    return f"{command.model_id}: {status.value}" + (f" on {places}" if places else "; " + _NOT_HELD)


def _device_id(
    command: c.GetVramModelStatus, held: Sequence[tuple[Device, ModelResidency]], named: Device | None
) -> str:
    if named is not None:
        return named.device_id
    holders = list(dict.fromkeys(device.device_id for device, _ in held))
    if not command.model_id or not holders:
        return ""
    return holders[0] if len(holders) == 1 else ALL


def _pressure(
    devices: Sequence[Device], held: Sequence[tuple[Device, ModelResidency]], named: Device | None
) -> MemoryPressure | None:
    chosen = [named] if named is not None else [device for device, _ in held] or list(devices)
    unique = {device.device_id: device.telemetry for device in chosen if device is not None}
    return merge_pressure([sample.memory_pressure for sample in unique.values() if sample is not None])


def _memory(residencies: Sequence[ModelResidency]) -> ModelMemoryUsage:
    records = [model.memory for model in residencies]
    if len(records) == 1:
        return records[0]
    weights = sum(record.weights_memory_bytes for record in records)
    peak = sum(record.peak_memory_bytes for record in records)
    return ModelMemoryUsage(
        model_memory_bytes=sum(record.model_memory_bytes for record in records),
        weights_memory_bytes=weights,
        activations_memory_bytes=sum(record.activations_memory_bytes for record in records),
        cache_memory_bytes=sum(record.cache_memory_bytes for record in records),
        total_memory_bytes=sum(record.total_memory_bytes for record in records),
        peak_memory_bytes=peak,
        memory_efficiency=weights / peak if peak else 0.0,
    )


def _performance(held: Sequence[tuple[Device, ModelResidency]]) -> ModelPerformance:
    """The devices' figures together: times weighted by runs, loads by device."""
    records = [(device.device_id, model.performance) for device, model in held]
    if len(records) == 1:
        return records[0][1]
    by_device: dict[str, DevicePerformance] = {}
    for _, record in records:
        by_device |= record.device_performance
    runs = sum(record.total_inferences for _, record in records)
    spent = sum(record.average_inference_time * record.total_inferences for _, record in records)
    loads = [record.average_loading_time for _, record in records if record.average_loading_time]
    return ModelPerformance(
        average_loading_time=sum(loads) / len(loads) if loads else 0.0,
        average_inference_time=spent / runs if runs else 0.0,
        inference_throughput=sum(record.inference_throughput for _, record in records),
        total_inferences=runs,
        device_performance=by_device,
    )


def _sessions(command: c.GetVramModelStatus, context: Context) -> list[str]:
    return [
        job.wire_id
        for job in context.jobs
        if job.state is not JobState.FINAL
        and job.model_id
        and command.model_id in ("", job.model_id)
        and job.device_id
        and job.on_final is None
        and not isinstance(job.command, c.GetVramModelStatus)
    ]


def _missing(command: c.GetVramModelStatus, residencies: Sequence[ModelResidency]) -> dict[str, str]:
    if not command.model_id:
        return {}
    if not residencies:
        return {"memory_usage": _NOT_HELD, "performance_metrics": _NOT_HELD}
    renamed = {"memory": "memory_usage", "performance": "performance_metrics"}
    missing: dict[str, str] = {}
    for model in residencies:
        for path, reason in model.not_measured.items():
            head, _, rest = path.partition(".")
            missing[".".join(filter(None, (renamed.get(head, head), rest)))] = reason
    return missing


def _ram_tier(devices: Sequence[Device]) -> r.RamTier:
    """The tiers of these devices: one for all that hold models, and each virtual one's own."""
    simulated = [device for device in devices if device.slot.kind is DeviceKind.VIRTUAL]
    real = [device for device in devices if device.slot.kind is not DeviceKind.VIRTUAL]
    return r.RamTier(
        bytes=sum(map(_tier_bytes, simulated)) + max(map(_tier_bytes, real), default=0),
        budget_bytes=sum(one.slot.ram_budget_bytes for one in (*simulated, *real[:1])),
    )


def _tier_bytes(device: Device) -> int:
    return device.telemetry.host.ram_tier_bytes if device.telemetry is not None else 0


def _coordination(command: c.GetVramModelStatus, devices: Sequence[Device]) -> r.Coordination | None:
    mode = command.coordination_mode
    if mode is None:
        return None
    tier = _ram_tier(devices)
    if mode is CoordinationMode.CACHE_AND_VRAM_SYNC:
        return r.Coordination(mode=mode, honoured=["coordination_mode"], ram_tier=tier)
    ignored = r.IgnoredHint(hint="coordination_mode", reason=f"{mode.value} changes nothing in a status request")
    return r.Coordination(mode=mode, ignored=[ignored], ram_tier=tier)
