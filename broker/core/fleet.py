"""What the broker knows of its workers: one device each, its state, what it holds, what waits and runs there."""

from __future__ import annotations

from broker.core.jobs import Job
from broker.core.queues import DeviceQueue
from protocol.enums import DeviceState, Tier
from protocol.replies import DeviceInfo, HeldModel, RunningCommand
from protocol.supervision import DeviceSlot
from protocol.telemetry import DeviceIdentity, ModelResidency, Telemetry


class Device:
    """A device and the incarnation of its worker. `worker` is the routing id, None while no worker is connected."""

    def __init__(self, slot: DeviceSlot) -> None:
        self.slot = slot
        self.identity: DeviceIdentity | None = None
        self.worker: bytes | None = None
        self.ready = False
        self.disabled = False
        self.lost_because = ""
        self.pid: int | None = None
        self.generation = 0
        self.restarts = 0
        self.started_at: float | None = None
        self.heard_at = 0.0
        self.progress_count = 0
        self.telemetry: Telemetry | None = None
        self.models: dict[str, ModelResidency] = {}
        self.queue = DeviceQueue()
        self.running: Job | None = None
        self.control: dict[str, Job] = {}

    @property
    def device_id(self) -> str:
        return self.slot.device_id

    @property
    def connected(self) -> bool:
        return self.worker is not None

    def state(self, *, draining: bool) -> DeviceState:
        """The device's state as the wire names it."""
        if self.disabled:
            return DeviceState.DISABLED
        if self.worker is None:
            return DeviceState.LOST if self.lost_because else DeviceState.STARTING
        if draining:
            return DeviceState.DRAINING
        if not self.ready:
            return DeviceState.STARTING
        return DeviceState.BUSY if self.running is not None else DeviceState.READY

    def tier_of(self, model_id: str) -> Tier:
        """The highest tier in which the device holds a model."""
        held = self.models.get(model_id)
        return Tier.DISK if held is None else held.tier

    def works_on(self, model_id: str) -> bool:
        """Does anything run or wait here for this model?"""
        if self.running is not None and self.running.model_id == model_id:
            return True
        return self.queue.waits_for(model_id)

    def lose_worker(self, reason: str) -> list[Job]:
        """Forget the worker; the jobs that it had are returned, no longer its own."""
        jobs = [*self.control.values(), *([self.running] if self.running is not None else [])]
        self.worker, self.ready, self.pid, self.started_at = None, False, None, None
        self.lost_because = reason
        self.telemetry, self.models = None, {}
        self.running, self.control = None, {}
        return jobs

    def info(self, now: float, *, draining: bool) -> DeviceInfo:
        """The device as `list_devices` shows it."""
        identity, telemetry = self.identity, self.telemetry
        total = identity.total_vram if identity else 0
        used = telemetry.memory.used if telemetry else 0
        return DeviceInfo(
            device_id=self.device_id,
            uuid=identity.uuid if identity else "",
            name=identity.name if identity else "",
            kind=self.slot.kind,
            state=self.state(draining=draining),
            total_vram=total,
            used_vram=used,
            free_vram=telemetry.memory.free if telemetry else total,
            models=[_held(model) for model in self.models.values()],
            memory_pressure=telemetry.memory_pressure if telemetry else None,
            telemetry=telemetry,
            queue_depth=len(self.queue),
            running=_running(self.running),
            pid=self.pid,
            generation=self.generation,
            restarts=self.restarts,
            uptime_seconds=now - self.started_at if self.started_at is not None else 0.0,
        )


def _held(model: ModelResidency) -> HeldModel:
    return HeldModel(
        model_id=model.model_id,
        tier=model.tier,
        bytes=model.bytes,
        precision=model.precision,
        pinned=model.pinned,
        sessions=model.sessions,
        last_used=model.last_used,
    )


def _running(job: Job | None) -> RunningCommand | None:
    if job is None or job.started is None:
        return None
    return RunningCommand(
        request_id=job.request_id,
        action=job.action.name,
        model_id=job.model_id,
        started_at=job.started,
        step=job.step,
        steps=job.steps,
    )


class Fleet:
    """Every device by its id; ids and UUIDs are both understood, in any case."""

    def __init__(self, slots: list[DeviceSlot]) -> None:
        self.devices: dict[str, Device] = {slot.device_id: Device(slot) for slot in slots}
        self._by_worker: dict[bytes, Device] = {}

    def find(self, name: str) -> Device | None:
        """The device of an id or a UUID."""
        device = self.devices.get(name)
        if device is not None:
            return device
        folded = name.lower()
        for device in self.devices.values():
            if device.device_id == folded or (device.identity and device.identity.uuid.lower() == folded):
                return device
        return None

    def by_worker(self, worker: bytes) -> Device | None:
        """The device whose connected worker has this routing id."""
        return self._by_worker.get(worker)

    def connect(self, device: Device, worker: bytes) -> None:
        """A worker took over a device."""
        if device.worker is not None:
            self._by_worker.pop(device.worker, None)
        device.worker = worker
        self._by_worker[worker] = device

    def disconnect(self, device: Device, reason: str) -> list[Job]:
        """A device's worker is gone; its jobs are returned."""
        if device.worker is not None:
            self._by_worker.pop(device.worker, None)
        return device.lose_worker(reason)

    def holders(self, model_id: str) -> list[Device]:
        """Devices that hold a model in VRAM or RAM; where none does, those that are about to."""
        holding = [device for device in self.devices.values() if model_id in device.models]
        return holding or [device for device in self.devices.values() if device.works_on(model_id)]
