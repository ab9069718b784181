"""Faults of placement: models that nobody knows, commands that no device can take; with what would help."""

from __future__ import annotations

from itertools import islice

from broker.core.decision import Exclusion, Score
from broker.core.fleet import Device
from protocol.commands import Generate
from protocol.drawing import MASK, Mode, given
from protocol.errors import ErrorCode, Fault, Recovery
from protocol.link import ModelRef

CALM_MS = 5000
"""A level of pressure is left after as long."""

MOST_RECOVERIES = 3


def unavailable(model: ModelRef, *, profile: bool, there_are_some: bool) -> Fault:
    """No device that takes models of this kind takes work; for good where this broker has none of them at all."""
    recovery = [Recovery(action="list_devices", description="see which devices there are", parameters={})]
    if there_are_some:
        text = f"no {'virtual' if profile else 'real'} device takes work for {model.model_id}"
        return Fault(ErrorCode.DEVICE_UNAVAILABLE, text, recovery=recovery)
    needed, others = ("a virtual", "real devices") if profile else ("a cuda or cpu", "virtual devices, which simulate,")
    what = "a virtual profile" if profile else "a real model"
    text = f"{model.model_id} is {what}: it needs {needed} device, and this broker has {others} alone"
    return Fault(ErrorCode.DEVICE_UNAVAILABLE, text, retryable=False, recovery=recovery)


def unknown_model(model_id: str, near: list[str], field: str = "model_id") -> Fault:
    """The catalogue has no such id; the nearest are named."""
    text = f"{field} is '{model_id[:128]}': the catalogue has no such model"
    recovery = [Recovery(action="list_models", description="list the models", parameters={})]
    return Fault(ErrorCode.MODEL_NOT_FOUND, text, details={"nearest": near}, recovery=recovery)


def leaving(model_id: str, request_id: str) -> Fault:
    """A model that is being unregistered right now: it is as good as gone, and back should that fail."""
    text = f"model_id is '{model_id}': it is being unregistered (request {request_id})"
    return Fault(ErrorCode.MODEL_NOT_FOUND, text, retryable=True, details={"field": "model_id"})


def check_mode(command: Generate, model: ModelRef) -> None:
    """Raise Fault MODEL_INCOMPATIBLE for a picture that the model cannot draw, whatever device it were on."""
    wanted = given(command.attachments).mode
    if not model.modes or wanted in model.modes:
        return
    known = [mode.value for mode in model.modes]
    text = f"{model.model_id} draws {' and '.join(known)}, not {wanted.value}: {_needs(model, wanted)}"
    raise Fault(ErrorCode.MODEL_INCOMPATIBLE, text, details={"field": "attachments", "modes": known})


def _needs(model: ModelRef, wanted: Mode) -> str:
    """What would have to be attached, or left out."""
    if wanted is Mode.INPAINT:
        return f"it takes no attachment named {MASK}"
    if Mode.INPAINT in model.modes and Mode.IMAGE not in model.modes:
        return f"it needs a picture and one named {MASK}, white where to paint, as attachments"
    return "it takes no picture" if wanted is Mode.IMAGE else "it needs a picture to begin from, as an attachment"


def none_can(model: ModelRef, score: Score, *, named: bool) -> Fault:
    """INSUFFICIENT_MEMORY on the best of the devices, named or not, with its numbers."""
    device, memory = score.device, score.memory
    pressure = device.telemetry.memory_pressure if device.telemetry is not None else None
    needed = score.needed_bytes
    details = {
        "needed_bytes": needed,
        "free_bytes": memory.free,
        "evictable_bytes": pressure.reclaimable_bytes if pressure is not None else 0,
        "pinned_bytes": memory.pinned,
        "total_bytes": memory.total,
    }
    if score.excluded is Exclusion.PRESSURE:
        text = (
            f"{model.model_id}: the memory pressure of {device.device_id} is critical: it takes no load of low priority"
        )
        recovery = [_urgent(model), *_unpins(device)]
        return Fault(ErrorCode.INSUFFICIENT_MEMORY, text, retry_after_ms=CALM_MS, details=details, recovery=recovery)
    where = device.device_id if named else f"{device.device_id}, the largest device that there is"
    text = f"{model.model_id}: {needed} bytes are needed on {where}: it has {memory.total}"
    recovery = _larger(model, needed, device) or [_elsewhere()]
    return Fault(ErrorCode.INSUFFICIENT_MEMORY, text, retryable=False, details=details, recovery=recovery)


def _urgent(model: ModelRef) -> Recovery:
    parameters = {"model_id": model.model_id, "priority": "Normal"}
    return Recovery(action="load_model", description="load it with normal priority", parameters=parameters)


def _unpins(device: Device) -> list[Recovery]:
    return [
        Recovery(
            action="unpin_model",
            description=f"let {held.model_id} be evicted: {held.bytes} bytes",
            parameters={"model_id": held.model_id, "device_id": device.device_id},
        )
        for held in device.models.values()
        if held.pinned
    ][:MOST_RECOVERIES]


def _larger(model: ModelRef, needed_bytes: int, refused: Device) -> list[Recovery]:
    """The devices of the same kind that are large enough."""
    able = (other for other in refused.pool.devices if other.memory.total >= needed_bytes and not other.disabled)
    return [
        Recovery(
            action="load_model",
            description=f"load it on {other.device_id}: it has {other.memory.total} bytes",
            parameters={"model_id": model.model_id, "device_id": other.device_id},
        )
        for other in islice(able, MOST_RECOVERIES)
    ]


def _elsewhere() -> Recovery:
    return Recovery(action="list_devices", description="see how much memory each device has", parameters={})
