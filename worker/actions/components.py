"""`load_component` and `unload_component`: another part in a model's place of it, or one more, and back again."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import msgspec

from modelfiles.model import ModelFile, inspect
from protocol import commands as c
from protocol.enums import ComponentRole, ComponentStatus
from protocol.errors import ErrorCode, Fault, Recovery, invalid, missing
from protocol.records import ModelComponent
from protocol.replies import LoadComponentReply, UnloadComponentReply
from worker.actions.list_components import components
from worker.devices.base import CONTROLNET, LORA, WORD, Made, plain_name
from worker.engine import Engine, common
from worker.job import Job
from worker.loading import Wish, assigned_model, bring
from worker.resident import Resident

ADDED = (ComponentRole.LORA, ComponentRole.CONTROLNET, ComponentRole.TEXTUAL_INVERSION)
"""What a model has beside its own parts."""


def load_component(engine: Engine, job: Job, command: c.LoadComponent) -> LoadComponentReply:
    """Put a part into a model that is held. Raises Fault; then the model is as it was."""
    resident = _held(engine, job, command)
    file = _source(engine, job, command)
    is_lora = command.component is ComponentRole.LORA
    with engine.prefetcher.held_off(resident.model_id, job.check):
        if command.component is ComponentRole.TEXTUAL_INVERSION:
            made = resident.built.read_word(command.name, file, job)
        elif is_lora:
            made = resident.built.read_lora(command.name or Path(file.path).stem, file, job)
        else:
            made = resident.built.read_part(_role(command, resident), file, job)
    scaled = command.component in (ComponentRole.LORA, ComponentRole.CONTROLNET)
    added, replaced = _exchange(engine, job, resident, made, command.scale if scaled else None)
    component = _shown(engine, resident, made.part.name)
    return LoadComponentReply(
        **{**common(job), "model_id": resident.model_id},
        message=f"{resident.model_id} has {component.name} of {Path(file.path).name}",
        component=component,
        memory_added=added,
        replaced=replaced,
    )


def unload_component(engine: Engine, job: Job, command: c.UnloadComponent) -> UnloadComponentReply:
    """Take an adapter out of a model, or give it its own part back. Raises Fault."""
    resident = _held(engine, job, command)
    fields = {**common(job), "model_id": resident.model_id}
    if command.component not in ADDED:
        role = _role(command, resident)
        with engine.prefetcher.held_off(resident.model_id, job.check):
            made = resident.built.read_part(role, inspect(resident.file.path, engine.roots), job)
        added, replaced = _exchange(engine, job, resident, made, None)
        component = _shown(engine, resident, role)
        message = f"{resident.model_id} has its own {role}"
        return UnloadComponentReply(
            **fields, message=message, component=component, memory_added=added, replaced=replaced
        )
    before, part = engine.device.gauge().used, _added(command, resident)
    name = plain_name(part)
    gone = _off(_shown(engine, resident, part))
    resident.built.drop(part)
    _changed(engine, resident)
    added = engine.device.gauge().used - before
    message = f"{resident.model_id} is without {name}"
    return UnloadComponentReply(**fields, message=message, component=gone, memory_added=added)


def _role(command: c.LoadComponent | c.UnloadComponent, resident: Resident) -> str:
    """The name of the part that is meant. Raises Fault NOT_SUPPORTED, MODEL_INCOMPATIBLE for one that is not there."""
    assert command.component is not None
    role = command.component.value
    if role == CONTROLNET and isinstance(command, c.LoadComponent):
        return role
    if all(part.name != role for part in resident.built.parts):
        held = ", ".join(part.name for part in resident.built.parts if not part.name.startswith((LORA, WORD)))
        text = f"component is {role!r}: {resident.model_id} has none (it has {held})"
        raise Fault(ErrorCode.MODEL_INCOMPATIBLE, text, details={"field": "component"})
    return role


def _exchange(
    engine: Engine, job: Job, resident: Resident, made: Made, scale: float | None
) -> tuple[int, ModelComponent | None]:
    """Give a part to a model: the device bytes that this took, and the part that stood there.

    Raises Fault INSUFFICIENT_MEMORY; then the model is as it was.
    """
    before = engine.device.gauge().used
    name, size = made.part.name, made.part.bytes
    engine.keeper.make_room(size, f"room for {name} of {resident.model_id}", (resident.model_id,))
    job.check()
    old = next((part for part in resident.built.parts if part.name == name), None)
    shown = None if old is None else _off(_shown(engine, resident, name))
    placed = False
    with suppress(engine.device.out_of_memory):
        resident.built.put(made, scale)
        placed = True
    if not placed:
        engine.sampler.note_oom()
        engine.device.reclaim()
        raise engine.cache.insufficient(size, engine.keeper.room())
    _changed(engine, resident)
    return engine.device.gauge().used - before, shown


def _held(engine: Engine, job: Job, command: c.LoadComponent | c.UnloadComponent) -> Resident:
    """The model, on its device. Raises Fault INVALID_ARGUMENT where it is not held."""
    resident = engine.cache.get(command.model_id)
    if resident is None:
        raise invalid("model_id", command.model_id, f"a model that {engine.spec.device_id} holds")
    wish = Wish(priority=resident.priority, host_holds_file=not resident.keeps_ram_copy)
    return bring(engine, job, assigned_model(job, command.model_id), wish).resident


def _source(engine: Engine, job: Job, command: c.LoadComponent) -> ModelFile:
    """The file that a part comes from. Raises Fault."""
    if command.source_model_id:
        ref = job.assign.source
        if ref is None:
            expected = "a model that the catalogue knows"
            raise invalid("source_model_id", command.source_model_id, expected)
        return inspect(ref.path, engine.roots, "source_model_id")
    if not command.path:
        raise missing("path", " (or source_model_id)")
    return inspect(_whole(command.path, command.component), engine.roots, "path")


def _whole(path: str, role: ComponentRole | None) -> str:
    """The folder of the pipeline whose tokenizer or scheduler a path names; a part with weights is one by itself."""
    if role in (ComponentRole.TOKENIZER, ComponentRole.SCHEDULER) and Path(path).name == role.value:
        return str(Path(path).parent)
    return path


def _added(command: c.UnloadComponent, resident: Resident) -> str:
    """The name of the added part that is meant. Raises Fault."""
    if command.component is ComponentRole.CONTROLNET:
        return _role(command, resident)
    if command.component is ComponentRole.TEXTUAL_INVERSION:
        return WORD + _only(command.name, _words(resident), resident, "a word")
    return LORA + _named(command, resident)


def _words(resident: Resident) -> list[str]:
    return [plain_name(part.name) for part in resident.built.parts if part.name.startswith(WORD)]


def _only(name: str, held: list[str], resident: Resident, kind: str) -> str:
    """The one that is meant; the only one where none is named. Raises Fault INVALID_ARGUMENT."""
    found = name or (held[0] if len(held) == 1 else "")
    if found not in held:
        raise invalid("name", name, f"{kind} that {resident.model_id} has (it has {', '.join(held) or 'none'})")
    return found


def _named(command: c.UnloadComponent, resident: Resident) -> str:
    """The adapter that is meant; the only one where none is named. Raises Fault INVALID_ARGUMENT."""
    held = resident.built.loras
    name = command.name or (next(iter(held)) if len(held) == 1 else "")
    if name not in held:
        raise unknown_lora("name", name, resident)
    return name


def unknown_lora(field: str, name: str, resident: Resident) -> Fault:
    """The Fault of an adapter that a model has not, with those it has."""
    held = ", ".join(resident.built.loras) or "none"
    fault = invalid(field, name, f"a LoRA that {resident.model_id} has (it has {held})")
    parameters = {"model_id": resident.model_id, "component": ComponentRole.LORA.value, "name": name}
    recovery = Recovery(action="load_component", description="load it first, from path", parameters=parameters)
    return Fault(ErrorCode.INVALID_ARGUMENT, str(fault), details=fault.info.details, recovery=[recovery])


def _changed(engine: Engine, resident: Resident) -> None:
    """Its copy in the RAM tier, if there is one, is not whole any more."""
    resident.copied, resident.refused_at = False, None
    engine.device.reclaim()


def _shown(engine: Engine, resident: Resident, name: str) -> ModelComponent:
    held = next(one for one in components(engine, resident) if one.id == f"{resident.model_id}/{name}")
    fields = {field: getattr(held, field) for field in ModelComponent.__struct_fields__}
    return ModelComponent(**fields)


def _off(component: ModelComponent) -> ModelComponent:
    """As it is shown once it has left."""
    return msgspec.structs.replace(
        component,
        status=ComponentStatus.Available,
        is_cached_in_ram=False,
        is_loaded_in_vram=False,
        loaded_on_devices=[],
        memory_usage=0,
    )
