"""`load_model`: a model onto the device under a configuration; of a resident model it is a use."""

from __future__ import annotations

from protocol import commands as c
from protocol.enums import Tier
from protocol.link import RunFacts
from protocol.replies import LoadCache, LoadModelReply
from worker.coordination import coordinate
from worker.engine import Engine, common
from worker.job import Job
from worker.loading import Brought, Wish, assigned_model, bring


def load_model(engine: Engine, job: Job, command: c.LoadModel) -> LoadModelReply:
    """Load, or find loaded. Raises Fault."""
    ref = assigned_model(job, command.model_id)
    wish = Wish(
        configuration=command.configuration,
        config_path=command.config_path,
        force=command.force,
        priority=command.priority,
        strategy=command.loading_strategy,
        host_holds_file=command.host_holds_file,
        pin=command.pin,
    )
    brought = bring(engine, job, ref, wish)
    resident = brought.resident
    resident.priority = command.priority
    resident.keep_alive_seconds = command.keep_alive
    resident.keeps_ram_copy = not command.host_holds_file
    if command.pin:
        engine.cache.pin(ref.model_id, pinned=True)
    placed = resident.tier is Tier.VRAM
    job.facts = RunFacts(
        load_ms=brought.load_ms if placed else None,
        source=brought.source if placed else None,
        weights_bytes=resident.bytes,
    )
    return _reply(engine, job, command, brought)


def _reply(engine: Engine, job: Job, command: c.LoadModel, brought: Brought) -> LoadModelReply:
    resident = brought.resident
    not_measured = {path: why for path, why in resident.not_measured().items() if path.startswith("memory.")}
    if brought.page_cache_ratio is None:
        not_measured["cache.page_cache_ratio"] = brought.page_cache_reason
    device, source, memory = engine.spec.device_id, brought.source.value, resident.memory()
    message = f"{resident.model_id} is on {device}, from {source}"
    if resident.tier is not Tier.VRAM:
        message = f"{resident.model_id} is in RAM, from {source}: its first use brings it to {device}"
    return LoadModelReply(
        **{**common(job), "model_id": resident.model_id},
        message=message,
        memory_usage=memory.model_memory_bytes,
        memory_added=brought.added_bytes,
        load_time=brought.load_ms,
        load_time_ms=brought.load_ms,
        memory=memory,
        optimizations_applied=[outcome.option for outcome in resident.options if outcome.applied],
        loaded_at=resident.loaded_at,
        options=resident.options,
        cache=LoadCache(source=brought.source, page_cache_ratio=brought.page_cache_ratio),
        coordination=coordinate(command, brought, engine.ram),
        not_measured=not_measured,
    )
