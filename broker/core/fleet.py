"""What the broker knows of its workers: one device each, its state, what it holds, what waits and runs there."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from itertools import islice

from broker.core.decision import Memory
from broker.core.jobs import Job
from broker.core.pool import ABSENT, IDLE, Pool, level_of
from broker.core.queues import DeviceQueue
from broker.core.sharing import bytes_together
from protocol.enums import DeviceKind, DeviceState, PressureLevel, Tier
from protocol.link import Prefetch
from protocol.replies import DeviceInfo, HeldModel, RunningCommand
from protocol.supervision import DeviceSlot
from protocol.telemetry import DeviceIdentity, ModelResidency, Telemetry

LEAST_RETRY_MS, MOST_RETRY_MS = 20, 60_000
"""Bounds of an estimate that a refused client is told."""

IDLE_RETRY_MS = 1000
"""What a client is told where nothing runs that could end."""

MOST_LOOKED_AT = 256

_BRINGING = frozenset({"load_model", "generate", "optimize_model", "benchmark_model"})
"""Actions after which their model is on the device."""


class Device:
    """A device and the incarnation of its worker. `worker` is the routing id, None while no worker is connected.

    What a decision reads is kept ready: `work_ms`, `promised_bytes` and `in_flight` of all that waits and runs here,
    `ends_at` when what runs is expected to end (0: unknown), and the newest reading of the memory. Devices of one
    `make` take the same time for the same work.
    """

    def __init__(self, slot: DeviceSlot, pool: Pool | None = None, index: int = 0) -> None:
        self.slot = slot
        self.pool = pool or Pool()
        self.index = index
        self.level = ABSENT
        self.make = slot.kind.value
        self.work_ms = 0.0
        self.promised_bytes = 0
        self.in_flight = 0
        self.ends_at = 0.0
        self.memory = Memory()
        self.identity: DeviceIdentity | None = None
        self.worker: bytes | None = None
        self.ready = False
        self.disabled = False
        self.drained = slot.drained
        self.renew_because = ""
        self.served_generation = 0
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
        self.ahead = Prefetch()
        """What its worker was told last of the model that it will have to read."""

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
        if self.drained and not self.has_work:
            return DeviceState.DRAINED
        if draining or self.drained or self.renew_because:
            return DeviceState.DRAINING
        if not self.ready:
            return DeviceState.STARTING
        return DeviceState.BUSY if self.running is not None else DeviceState.READY

    @property
    def has_work(self) -> bool:
        """Whether anything runs or waits here."""
        return self.running is not None or len(self.queue) > 0

    @property
    def trouble(self) -> str:
        """Why no worker serves it, or why it takes nothing new; empty where all is well."""
        if self.disabled or (self.worker is None and self.lost_because):
            return f"is {self.state(draining=False).value}: {self.lost_because}"
        if self.renew_because:
            return f"is draining: {self.renew_because}"
        return f"is {self.state(draining=False).value}: an administrator drained it" if self.drained else ""

    @property
    def takes_work(self) -> bool:
        """Can a command that goes wherever it is done soonest come here?"""
        return self.ready and not (self.disabled or self.drained or self.renew_because)

    def tier_of(self, model_id: str) -> Tier:
        """The highest tier in which the device holds a model."""
        held = self.models.get(model_id)
        return Tier.DISK if held is None else held.tier

    def serves(self, model_id: str) -> bool:
        """Can a command about this model run here without a load?"""
        held = self.models.get(model_id)
        return held is not None and held.tier is Tier.VRAM and self.level != ABSENT

    def wait_ms(self, now: float) -> float:
        """How long what is here already is expected to take; what is overdue is expected to take as long again."""
        running = self.running
        if running is None or not self.ends_at:
            return self.work_ms
        return self.work_ms - running.estimate_ms + abs(self.ends_at - now) * 1000.0

    def observe(self, telemetry: Telemetry) -> None:
        """Note the newest sample of the worker."""
        self.telemetry = telemetry
        memory, pressure = telemetry.memory, telemetry.memory_pressure
        used = pressure.used_bytes
        idle = used - pressure.reclaimable_bytes
        wanted = pressure.pressure * pressure.total_bytes
        reserve = max(0, round(wanted) - idle) if math.isfinite(wanted) else 0
        self.memory = Memory.of(
            max(0, memory.total - reserve),
            max(0, memory.free - reserve),
            self.memory.pinned,
            used,
            critical=pressure.level is PressureLevel.CRITICAL,
        )

    def room_ms(self, now: float) -> int:
        """When a place in the queue is expected to be free: once what runs has ended; within bounds that make sense."""
        left = 0.0 if self.running is None else self.running.estimate_ms
        if self.running is not None and self.ends_at:
            left = (self.ends_at - now) * 1000.0
        return int(min(max(LEAST_RETRY_MS, left), MOST_RETRY_MS))

    def is_warm_for(self, job: Job) -> bool:
        """Can a command start here without a model being brought first?"""
        return job.action.name not in _BRINGING or self.tier_of(job.model_id) is Tier.VRAM

    def lose_worker(self, reason: str) -> list[Job]:
        """Forget the worker; the jobs that it had are returned, no longer its own."""
        jobs = [*self.control.values(), *([self.running] if self.running is not None else [])]
        self.worker, self.ready, self.pid, self.started_at = None, False, None, None
        self.lost_because = reason
        self.renew_because = ""
        self.telemetry, self.models = None, {}
        self.ends_at = 0.0
        self.memory = Memory.of(self.memory.total, self.memory.total, 0)
        self.running, self.control = None, {}
        self.ahead = Prefetch()
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
        request_id=job.wire_id,
        action=job.action.name,
        model_id=job.model_id,
        started_at=job.started,
        step=job.step,
        steps=job.steps,
    )


_NOBODY: Mapping[Device, int] = {}


class Fleet:
    """Every device by its id; ids and UUIDs are both understood, in any case. It keeps the indices of placement.

    Invariant: `_near` has, for each model, exactly the devices that hold it in VRAM or RAM or have work in flight that
    brings it, with the number of these reasons; a device without work comes first, the one that got work last comes
    last.
    """

    def __init__(self, slots: list[DeviceSlot]) -> None:
        self._profiles, self._real = Pool(), Pool()
        self.devices: dict[str, Device] = {}
        for index, slot in enumerate(slots):
            pool = self.pool(profiles=slot.kind is DeviceKind.VIRTUAL)
            device = self.devices[slot.device_id] = Device(slot, pool, index)
            pool.devices.append(device)
        self._by_worker: dict[bytes, Device] = {}
        self._near: dict[str, OrderedDict[Device, int]] = {}

    def pool(self, *, profiles: bool) -> Pool:
        """The devices that take profiles, or those that take real models."""
        return self._profiles if profiles else self._real

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

    def connect(self, device: Device, worker: bytes, identity: DeviceIdentity) -> None:
        """A worker took over a device."""
        if device.worker is not None:
            self._by_worker.pop(device.worker, None)
        device.worker = worker
        device.identity = identity
        device.make = identity.kind.value
        if identity.kind is DeviceKind.CUDA:
            device.make = f"{identity.kind.value} {identity.name}"
        device.memory = Memory.of(identity.total_vram, identity.total_vram, 0)
        self._by_worker[worker] = device

    def disconnect(self, device: Device, reason: str) -> list[Job]:
        """A device's worker is gone; its jobs are returned."""
        if device.worker is not None:
            self._by_worker.pop(device.worker, None)
        self.hold(device, ())
        running = device.running
        jobs = device.lose_worker(reason)
        if running is not None:
            self.give(running, device)
        self.weigh(device)
        return jobs

    # what is where

    def hold(self, device: Device, models: Iterable[ModelResidency]) -> None:
        """A device reports all that it holds."""
        before = device.models
        device.models = after = {model.model_id: model for model in models}
        pinned = bytes_together(model for model in after.values() if model.pinned and model.tier is Tier.VRAM)
        if pinned != device.memory.pinned:
            old = device.memory
            device.memory = Memory.of(old.total, old.free, pinned, old.used, critical=old.critical)
        if before.keys() != after.keys():
            for model_id in before.keys() - after.keys():
                self._withdraw(model_id, device)
            for model_id in after.keys() - before.keys():
                self._approach(model_id, device)
        running = device.running
        if running is not None and running.promised_bytes and device.tier_of(running.model_id) is Tier.VRAM:
            device.promised_bytes -= running.promised_bytes
            running.promised_bytes = 0

    def take(self, job: Job, device: Device) -> None:
        """A job was queued for a device."""
        device.work_ms += job.estimate_ms
        device.promised_bytes += job.promised_bytes
        device.in_flight += 1
        if job.action.name in _BRINGING:
            self._approach(job.model_id, device)
        self.weigh(device)

    def give(self, job: Job, device: Device) -> None:
        """A job that was queued for a device, or ran there, is no longer its business."""
        device.in_flight -= 1
        device.work_ms = device.work_ms - job.estimate_ms if device.in_flight else 0.0
        device.promised_bytes -= job.promised_bytes
        if job.action.name in _BRINGING:
            self._withdraw(job.model_id, device)
        self.weigh(device)

    def weigh(self, device: Device) -> None:
        """Where a device stands among its like, after its work or its readiness changed."""
        if not device.takes_work:
            level = ABSENT
        elif device.in_flight:
            level = level_of(device.work_ms)
        else:
            level = IDLE
        if level != device.level:
            device.pool.stand(device, level)

    def _approach(self, model_id: str, device: Device) -> None:
        near = self._near.get(model_id)
        if near is None:
            near = self._near[model_id] = OrderedDict()
        near[device] = near.get(device, 0) + 1
        near.move_to_end(device)

    def _withdraw(self, model_id: str, device: Device) -> None:
        near = self._near[model_id]
        count = near[device] - 1
        if count:
            near[device] = count
            if not device.in_flight:
                near.move_to_end(device, last=False)
        else:
            del near[device]
            if not near:
                del self._near[model_id]

    def near(self, model_id: str) -> Mapping[Device, int]:
        """Devices that hold a model or have work in flight that brings it, the soonest free first, more or less."""
        return self._near.get(model_id, _NOBODY)

    def room_ms(self, now: float) -> int:
        """When some device, of the first that work, is expected to take its next command."""
        working = (device.room_ms(now) for device in self.devices.values() if device.running is not None)
        return min(islice(working, MOST_LOOKED_AT), default=IDLE_RETRY_MS)

    def holders(self, model_id: str) -> list[Device]:
        """Devices that hold a model in VRAM or RAM, in order; where none does, those that are about to."""
        near = sorted(self.near(model_id), key=lambda device: device.index)
        return [device for device in near if model_id in device.models] or near
