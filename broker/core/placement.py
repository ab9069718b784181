"""Which device a command goes to: a pure function over the devices as they stand.

A device that holds the model wins, then one that has it in RAM, then one where it fits without an eviction; among
equals the one with less work before it, then the emptier one, then the first. A device without a ready worker takes
work only where none is ready.
"""

from __future__ import annotations

from collections.abc import Iterable

from broker.core.fleet import Device
from protocol.enums import Tier
from protocol.errors import ErrorCode, Fault
from protocol.link import ModelRef

_TIER_COST = {Tier.VRAM: 0, Tier.RAM: 1, Tier.DISK: 2}


def place(devices: Iterable[Device], model: ModelRef | None) -> Device:
    """The best device for a command about `model`. Raises DEVICE_UNAVAILABLE where none can take it."""
    usable = [device for device in devices if not device.disabled and _kind_fits(device, model)]
    if not usable:
        kind = "virtual" if model is not None and is_profile(model) else "real"
        text = f"no {kind} device takes work" + (f" for {model.model_id}" if model else "")
        raise Fault(ErrorCode.DEVICE_UNAVAILABLE, text)
    ready = [device for device in usable if device.ready]
    return min(ready or usable, key=lambda device: _cost(device, model))


def is_profile(model: ModelRef) -> bool:
    """Is the model a profile for virtual devices?"""
    return model.path.endswith(".vmodel.json")


def _kind_fits(device: Device, model: ModelRef | None) -> bool:
    return model is None or is_profile(model) == (device.slot.kind.value == "virtual")


def _cost(device: Device, model: ModelRef | None) -> tuple[int, int, int]:
    waiting = len(device.queue) + (device.running is not None)
    used = device.telemetry.memory.used if device.telemetry else 0
    if model is None:
        return (0, waiting, used)
    about_to = device.works_on(model.model_id)
    tier = 0 if about_to else _TIER_COST[device.tier_of(model.model_id)]
    fits = device.telemetry is None or device.telemetry.memory.free >= model.size_bytes
    return (tier + (0 if fits or tier == 0 else 2), waiting, used)
