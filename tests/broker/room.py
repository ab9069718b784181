"""The core without I/O: a room in which a test is the clients, the workers, the supervisor and the clock."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from broker.core.core import Core
from broker.core.events import (
    ClientMessage,
    CoreEvent,
    Effect,
    Log,
    Publish,
    SendClient,
    SendWorker,
    TellSupervisor,
    Tick,
    WorkerMessage,
)
from broker.core.finals import MemoryStore
from protocol import replies as r
from protocol.codec import encode_reply
from protocol.enums import (
    DeviceKind,
    LoadSource,
    ModelPrecision,
    ModelStatus,
    ModelType,
    PressureLevel,
    ReplyState,
    Tier,
)
from protocol.errors import ErrorCode, Fault
from protocol.link import Assign, CancelJob, CatalogEntries, JobUpdate, Message, ModelRef, Register, Report
from protocol.records import ModelInfo, ModelMemoryUsage, ModelPerformance
from protocol.supervision import BrokerSpec, DeviceSlot, KillChild, Preload
from protocol.telemetry import DeviceIdentity, DeviceMemory, MemoryPressure, ModelResidency, Telemetry

CATALOG = b"catalog/1"
START = datetime(2026, 1, 1, tzinfo=UTC)
VRAM = 1 << 30


def model(model_id: str, **fields: Any) -> ModelRef:
    """A model that the catalogue knows."""
    known = {"path": f"/models/{model_id}", "type": ModelType.SD15, "size_bytes": 1000, "status": ModelStatus.Available}
    return ModelRef(model_id=model_id, **{**known, **fields})


def residency(model_id: str, tier: Tier = Tier.VRAM, size_bytes: int = 1000) -> ModelResidency:
    """A model as a worker reports it."""
    return ModelResidency(
        model_id=model_id,
        status=ModelStatus.Loaded,
        tier=tier,
        tiers=[tier],
        bytes=size_bytes,
        precision=ModelPrecision.Float16,
        loaded_at=START,
        last_used=START,
        memory=ModelMemoryUsage(model_memory_bytes=size_bytes),
        performance=ModelPerformance(),
    )


def telemetry(used: int = 0) -> Telemetry:
    """A sample of a device with 1 GiB."""
    pressure = MemoryPressure(
        level=PressureLevel.NORMAL,
        used_bytes=used,
        reclaimable_bytes=used,
        total_bytes=VRAM,
        utilization=used / VRAM,
        pressure=0.0,
    )
    return Telemetry(memory=DeviceMemory(total=VRAM, used=used, free=VRAM - used), memory_pressure=pressure)


class Room:
    """A core and everybody around it; what the core did is in `effects`, newest last."""

    def __init__(
        self,
        devices: Sequence[str] = ("cpu:0", "cpu:1"),
        *,
        limits: r.Limits | None = None,
        models: Sequence[ModelRef] | None = (model("m"), model("n")),
        connected: bool = True,
        silence_ms: int = 15_000,
        survivors: Sequence[str] = (),
        store: MemoryStore | None = None,
        remembered: bytes = b"",
        preload: Sequence[Preload] = (),
    ) -> None:
        self.now = 1000.0
        self.expects_incidents = False
        self.store = store or MemoryStore()
        ids = itertools.count()
        slots = [DeviceSlot(device_id=name, kind=DeviceKind(name.partition(":")[0])) for name in devices]
        spec = BrokerSpec(
            commands="",
            events="",
            link="",
            devices=slots,
            limits=limits or r.Limits(),
            silence_ms=silence_ms,
            survivors=list(survivors),
            preload=list(preload),
            version="0",
        )
        self.core = Core(
            spec,
            "epoch-1",
            clock=lambda: self.now,
            wall=lambda: START + timedelta(seconds=self.now),
            new_id=lambda: f"id-{next(ids)}",
            store=self.store,
            remembered=remembered,
        )
        self.effects: list[Effect] = []
        self._read = 0
        if connected:
            for name in devices:
                self.register(name)
        if models is not None:
            self.register_catalog()
            self.entries(*models, complete=True)
        self.new()

    # what happens

    def handle(self, event: CoreEvent) -> list[Effect]:
        effects = self.core.handle(event, self.now)
        incidents = [
            effect.fields["trace"] for effect in effects if isinstance(effect, Log) and effect.event == "incident"
        ]
        assert self.expects_incidents or not incidents, incidents[0]
        self.effects += effects
        return effects

    def send(self, action: str, client: bytes = b"c1", **fields: Any) -> list[Effect]:
        """A command in JSON snake_case from a bare DEALER."""
        return self.send_raw({"action": action, **fields}, client=client)

    def send_raw(
        self,
        payload: dict[str, Any],
        attachments: tuple[bytes, ...] = (),
        client: bytes = b"c1",
        envelope: tuple[bytes, ...] = (),
    ) -> list[Effect]:
        """A command with all its keys as given, and its attachments."""
        return self.handle(ClientMessage(client, envelope, msgspec.json.encode(payload), attachments))

    def ask(self, action: str, client: bytes = b"c1", **fields: Any) -> Any:
        """A command that is answered at once, and its reply."""
        return answer(self.send(action, client, **fields))

    def register(self, device: str, generation: int = 1, *, ready: bool = True, incarnation: str = "a") -> bytes:
        worker = worker_of(device, generation, incarnation)
        kind = DeviceKind(device.partition(":")[0])
        uuid = f"UUID-{device}".upper()
        identity = DeviceIdentity(device_id=device, uuid=uuid, name=device, kind=kind, total_vram=VRAM)
        header = Register(worker_id=worker.decode(), generation=generation, pid=77, device=identity, ready=ready)
        self.handle(WorkerMessage(worker, header))
        return worker

    def register_catalog(self, worker: bytes = CATALOG, generation: int = 1) -> None:
        self.handle(WorkerMessage(worker, Register(worker_id=worker.decode(), generation=generation, pid=78)))

    def entries(self, *models: ModelRef, complete: bool = False, removed: Sequence[str] = ()) -> None:
        header = CatalogEntries(entries=list(models), complete=complete, removed=list(removed))
        self.handle(WorkerMessage(CATALOG, header))

    def holds(self, device: str, *models: ModelResidency, used: int = 0) -> None:
        """The device's worker reports what it holds."""
        report = Report(ready=True, telemetry=telemetry(used), models=list(models))
        self.handle(WorkerMessage(self.worker(device), report))

    def worker(self, device: str) -> bytes:
        worker = self.core.context.fleet.devices[device].worker
        assert worker is not None
        return worker

    def finish(
        self,
        assigned: SendWorker,
        reply: r.Reply | None = None,
        attachments: tuple[bytes, ...] = (),
        code: ErrorCode | None = None,
    ) -> list[Effect]:
        """The worker's final reply to an assignment."""
        header = assigned.header
        assert isinstance(header, Assign)
        written = reply or (success_of(header) if code is None else failure_of(header, code))
        update = JobUpdate(
            request_id=header.request_id,
            attempt=header.attempt,
            state=written.state,
            success=written.success,
            error_code=code,
        )
        body = encode_reply(written, header.spelling)
        return self.handle(WorkerMessage(assigned.worker, update, (body, *attachments)))

    def progress(self, assigned: SendWorker, step: int, steps: int = 10, *, body: bool = False) -> list[Effect]:
        header = assigned.header
        assert isinstance(header, Assign)
        update = JobUpdate(
            request_id=header.request_id,
            attempt=header.attempt,
            state=ReplyState.PROGRESS,
            success=True,
            step=step,
            steps=steps,
            eta_ms=5.0,
        )
        reply = r.ProgressReply(
            request_id=header.request_id, action=header.action, state=ReplyState.PROGRESS, step=step, steps=steps
        )
        return self.handle(
            WorkerMessage(assigned.worker, update, (encode_reply(reply, header.spelling),) if body else ())
        )

    def wait(self, seconds: float) -> list[Effect]:
        """Time passes; every timer that comes due is ticked at its time."""
        before, end = len(self.effects), self.now + seconds
        while (due := self.core.next_at()) is not None and due <= end:
            self.now = max(self.now, due)
            self.handle(Tick())
        self.now = end
        return self.effects[before:]

    # what was done

    def new(self) -> list[Effect]:
        """The effects since the last call."""
        effects, self._read = self.effects[self._read :], len(self.effects)
        return effects


def worker_of(device: str, generation: int, incarnation: str = "a") -> bytes:
    return f"{device}/{generation}/{incarnation}".encode()


def success_of(header: Assign) -> r.Reply:
    """What a worker answers when all went well; a small true reply of the action's own type."""
    common: dict[str, Any] = {"request_id": header.request_id, "action": header.action, "warnings": header.warnings}
    on_device = {**common, "device_id": header.device_id, "model_id": header.model.model_id if header.model else ""}
    match header.action:
        case "generate":
            return r.GenerateReply(**on_device, seed=1, images=[], steps_done=2)
        case "unload_model":
            return unloaded(header, 100)
        case "pin_model":
            return r.PinModelReply(**on_device, pinned=True)
        case "unpin_model":
            return r.UnpinModelReply(**on_device, pinned=False)
        case "load_model":
            return r.LoadModelReply(
                **on_device,
                memory_usage=10,
                memory_added=10,
                load_time=1.0,
                load_time_ms=1.0,
                memory=ModelMemoryUsage(model_memory_bytes=10),
                optimizations_applied=[],
                loaded_at=START,
                options=[],
                cache=r.LoadCache(source=LoadSource.DISK),
            )
        case "list_models":
            return r.ListModelsReply(
                **common,
                models=[],
                total_count=0,
                page=1,
                page_size=20,
                total_pages=0,
                type_distribution={},
                status_distribution={},
            )
        case "scan_models":
            return r.ScanModelsReply(**common, added=[], updated=[], missing=[], rejected=[])
        case "unregister_model":
            return r.UnregisterModelReply(**common, model_id="gone", file_path="/models/gone", left_out=True)
        case "register_model":
            return registered(header, "new")
        case other:
            raise AssertionError(other)


def registered(header: Assign, model_id: str) -> r.RegisterModelReply:
    info = ModelInfo(id=model_id, last_updated=START, updated_at=START)
    return r.RegisterModelReply(request_id=header.request_id, action=header.action, model_id=model_id, model=info)


def unloaded(header: Assign, freed: int) -> r.UnloadModelReply:
    return r.UnloadModelReply(
        request_id=header.request_id,
        action=header.action,
        warnings=header.warnings,
        device_id=header.device_id,
        model_id=header.model.model_id if header.model else "",
        memory_freed=freed,
        memory_freed_bytes=freed,
        ram_freed=1,
        unload_time_ms=float(freed),
        cache_cleared=True,
        unloaded_at=START,
    )


def failure_of(header: Assign, code: ErrorCode) -> r.FailedReply:
    error = Fault(code, "it could not be done").info
    state = ReplyState.CANCELLED if code is ErrorCode.CANCELLED else ReplyState.FAILED
    return r.FailedReply(
        request_id=header.request_id,
        action=header.action,
        success=False,
        state=state,
        message=error.message,
        error=error,
    )


def sent(effects: Sequence[Effect], client: bytes | None = None) -> list[SendClient]:
    """What went to clients."""
    return [e for e in effects if isinstance(e, SendClient) and client in (None, e.client)]


def replies(effects: Sequence[Effect], client: bytes | None = None) -> list[Any]:
    """The JSON bodies that went to clients with a bare envelope."""
    return [msgspec.json.decode(effect.frames[0]) for effect in sent(effects, client)]


def answer(effects: Sequence[Effect], client: bytes | None = None) -> Any:
    """The one reply."""
    found = replies(effects, client)
    assert len(found) == 1, found
    return found[0]


def code(reply: Any) -> str:
    """The error code of a failed reply."""
    assert reply["success"] is False, reply
    return str(reply["error"]["code"])


def to_workers(effects: Sequence[Effect], kind: type[Message]) -> list[SendWorker]:
    return [e for e in effects if isinstance(e, SendWorker) and isinstance(e.header, kind)]


def assigned(effects: Sequence[Effect]) -> list[SendWorker]:
    """What was given to workers to do."""
    return to_workers(effects, Assign)


def cancels(effects: Sequence[Effect]) -> list[CancelJob]:
    return [effect.header for effect in to_workers(effects, CancelJob) if isinstance(effect.header, CancelJob)]


def kills(effects: Sequence[Effect]) -> list[KillChild]:
    return [e.line for e in effects if isinstance(e, TellSupervisor) and isinstance(e.line, KillChild)]


def published(effects: Sequence[Effect], beginning: str = "") -> list[Publish]:
    return [effect for effect in effects if isinstance(effect, Publish) and effect.topic.startswith(beginning)]


def ids(effects: Sequence[Effect]) -> list[str]:
    """The request ids of what was assigned."""
    return [effect.header.request_id for effect in assigned(effects) if isinstance(effect.header, Assign)]
