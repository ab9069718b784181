"""Where models are held, as the broker last told.

Decides what residency means for a model's status and its bytes by tier. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from catalog.entry import Entry
from protocol.enums import DeviceState, ModelLoadingStatus, ModelStatus, Tier
from protocol.errors import ErrorCode, Fault
from protocol.records import ModelDeviceStatus, ModelTierUsage, Record
from protocol.telemetry import ComponentResidency, DeviceReport, ModelResidency

MOVING = {ModelStatus.Loading: ModelLoadingStatus.Loading, ModelStatus.Unloading: ModelLoadingStatus.Unloading}


class Holding(Record, frozen=True, kw_only=True):
    """A model on one device."""

    device_id: str
    model: ModelResidency

    @property
    def vram_bytes(self) -> int:
        return self.model.bytes if self.model.tier is Tier.VRAM else 0

    @property
    def ram_bytes(self) -> int:
        if self.model.tier is Tier.RAM:
            return self.model.bytes
        return self.model.memory.cache_memory_bytes if Tier.RAM in self.model.tiers else 0


class Presence:
    """All devices and what they hold, at one moment."""

    def __init__(self, devices: Sequence[DeviceReport] = ()) -> None:
        self.devices = list(devices)
        self._holdings: dict[str, list[Holding]] = {}
        for device in self.devices:
            for model in device.models:
                holding = Holding(device_id=device.identity.device_id, model=model)
                self._holdings.setdefault(model.model_id, []).append(holding)

    @property
    def model_ids(self) -> Set[str]:
        """The models that any device has something to say of."""
        return self._holdings.keys()

    def status_of(self, entry: Entry) -> ModelStatus:
        """A model's status with what is held of it."""
        if entry.id not in self._holdings:
            return entry.status
        return status_of(entry.status, self.of(entry.id))

    def of(self, model_id: str) -> list[Holding]:
        """Where a model is held, in any tier above disk."""
        return [holding for holding in self._holdings.get(model_id, []) if holding.model.tier is not Tier.DISK]

    def device(self, text: str) -> DeviceReport | None:
        """The device of an id or UUID; None for "" and `auto`. Raises Fault DEVICE_NOT_FOUND."""
        if text in ("", "auto"):
            return None
        for device in self.devices:
            if text in (device.identity.device_id, device.identity.uuid):
                return device
        known = [device.identity.device_id for device in self.devices]
        raise Fault(
            ErrorCode.DEVICE_NOT_FOUND,
            f"device_id is {text[:80]!r}: expected one of {', '.join(known[:16]) or 'none'}",
            details={"field": "device_id", "devices": known[:64]},
        )


def loaded_on(holdings: Sequence[Holding]) -> list[str]:
    """The devices whose VRAM has the model."""
    return [holding.device_id for holding in holdings if holding.model.tier is Tier.VRAM]


def status_of(file_status: ModelStatus, holdings: Sequence[Holding]) -> ModelStatus:
    """A file that is not Available says so whatever is held; else Loaded anywhere, then moving, then Error."""
    if file_status is not ModelStatus.Available:
        return file_status
    states = {holding.model.status for holding in holdings}
    if (
        loaded_on(holdings) and not states & {ModelStatus.Loading, ModelStatus.Unloading}
    ) or ModelStatus.Loaded in states:
        return ModelStatus.Loaded
    order = (ModelStatus.Loading, ModelStatus.Unloading, ModelStatus.Error)
    return next((status for status in order if status in states), ModelStatus.Available)


def loading_status_of(holdings: Sequence[Holding]) -> ModelLoadingStatus:
    """How far the model has come towards any device; Cached is a copy in RAM alone."""
    status = status_of(ModelStatus.Available, holdings)
    if status is ModelStatus.Loaded:
        return ModelLoadingStatus.Loaded
    if status is ModelStatus.Error:
        return ModelLoadingStatus.Failed
    if status in MOVING:
        return MOVING[status]
    return ModelLoadingStatus.Cached if holdings else ModelLoadingStatus.NotLoaded


def tier_usage(holdings: Sequence[Holding], peak_bytes: int) -> ModelTierUsage:
    """Bytes by tier over all devices; `peak_bytes` is the highest measured before.

    Parts count in their highest tier."""
    parts: dict[str, int] = {}
    for holding in holdings:
        for part in holding.model.components:
            parts[part.name] = parts.get(part.name, 0) + part.bytes
    return ModelTierUsage(
        ram_usage=sum(holding.ram_bytes for holding in holdings),
        vram_usage=sum(holding.vram_bytes for holding in holdings),
        peak_usage=max([peak_bytes, *(holding.model.memory.peak_memory_bytes for holding in holdings)]),
        component_usage=parts,
        device_usage={holding.device_id: holding.vram_bytes for holding in holdings if holding.vram_bytes},
    )


def parts_held(holdings: Sequence[Holding], name: str) -> list[tuple[str, ComponentResidency]]:
    """Where a part is held: (device id, residency)."""
    return [(held.device_id, part) for held in holdings for part in held.model.components if part.name == name]


def device_status(device: DeviceReport, model_id: str, file_status: ModelStatus) -> ModelDeviceStatus:
    """A model on one device, held or not."""
    held = next((model for model in device.models if model.model_id == model_id and model.tier is not Tier.DISK), None)
    identity = device.identity
    if held is None:
        status = ModelStatus.Unknown if device.state is DeviceState.LOST else file_status
        return ModelDeviceStatus(device_id=identity.device_id, device_name=identity.name, status=status)
    return ModelDeviceStatus(
        device_id=identity.device_id,
        device_name=identity.name,
        status=held.status,
        loaded_at=held.loaded_at,
        memory_usage=held.memory,
        active_sessions_count=held.sessions,
    )
