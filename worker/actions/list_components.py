"""`list_components`: the parts of a model that this worker holds. Table work alone: runs in the I/O thread."""

from __future__ import annotations

from protocol import commands as c
from protocol.enums import ComponentStatus, Tier
from protocol.errors import invalid
from protocol.replies import HeldComponent, ListComponentsReply
from worker.devices.base import plain_name
from worker.engine import Engine, common
from worker.job import Job
from worker.resident import Resident


def list_components(engine: Engine, job: Job, command: c.ListComponents) -> ListComponentsReply:
    """Every part with its tier and bytes. Raises Fault INVALID_ARGUMENT where the model is not held."""
    resident = engine.cache.get(command.model_id)
    if resident is None:
        raise invalid("model_id", command.model_id, f"a model that {engine.spec.device_id} holds")
    fields = {**common(job), "model_id": command.model_id}
    return ListComponentsReply(**fields, components=components(engine, resident))


def components(engine: Engine, resident: Resident) -> list[HeldComponent]:
    """A resident's parts, as the reply shows them."""
    shared_with = engine.cache.shared_with(resident)
    device_id = engine.spec.device_id
    on_device = resident.tier is Tier.VRAM
    sizes = {part.name: part.size_bytes for part in resident.file.parts}
    return [
        HeldComponent(
            id=f"{resident.model_id}/{part.name}",
            name=plain_name(part.name),
            type=part.type,
            file_path=part.path,
            size=sizes.get(part.name, 0),
            status=ComponentStatus.Loaded if on_device else ComponentStatus.Cached,
            is_cached_in_ram=not on_device or resident.copied,
            is_loaded_in_vram=on_device,
            loaded_on_devices=[device_id] if on_device else [],
            memory_usage=part.bytes if on_device else 0,
            tier=resident.tier,
            bytes=part.bytes,
            shared_with=shared_with.get(part.name, []),
        )
        for part in resident.built.parts
    ]
