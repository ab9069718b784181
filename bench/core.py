"""A decision of the broker's core, without sockets: a client's command in, effects out, at 8, 64 and 4,096 devices.

`python -m bench.core [--commands 20000]`. Virtual devices hold four of 24 models each; of the commands four fifths
generate with one of the models, one fifth load one, all placed by the broker. `idle`: one command is on its way at a
time. `busy`: three for each device, so that every command waits in a queue. The workers' final replies that keep the
fleet going, and placements without their effects, are timed on their own.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import time
from collections import deque
from datetime import UTC, datetime

from msgspec import Struct

from bench.record import Machine, machine, write
from broker.core.core import Core
from broker.core.events import ClientMessage, Effect, SendWorker, Tick, WorkerMessage
from broker.core.finals import MemoryStore
from broker.core.placement import decide, request_of
from protocol.codec import encode_reply
from protocol.commands import Generate
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
from protocol.link import Assign, CatalogEntries, JobUpdate, ModelRef, Register, Report, RunFacts
from protocol.records import ModelMemoryUsage, ModelPerformance
from protocol.replies import GenerateReply, Limits, LoadCache, LoadModelReply, Reply
from protocol.supervision import BrokerSpec, DeviceSlot
from protocol.telemetry import DeviceIdentity, DeviceMemory, MemoryPressure, ModelResidency, Telemetry

FLEETS = (8, 64, 4096)
MODELS, HELD, GIB = 24, 4, 1 << 30
BUSY_FACTOR = 3
START = datetime(2026, 1, 1, tzinfo=UTC)
BODY = b'{"request_id":"%012d","action":"%s","model_id":"model-%d","prompt":"a lighthouse at dusk, oil on canvas"}'
LOAD = b'{"request_id":"%012d","action":"load_model","model_id":"model-%d"}'


class Timing(Struct, frozen=True, kw_only=True):
    """Microseconds of one kind of event."""

    events: int
    p50_us: float
    p99_us: float
    mean_us: float


class Row(Struct, frozen=True, kw_only=True):
    """One fleet under one load."""

    devices: int
    load: str
    command: Timing
    placement: Timing
    final_reply: Timing


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    commands: int
    models: int
    models_held_by_each: int
    rows: list[Row]


def residency(model_id: str) -> ModelResidency:
    """A model of 1 GiB on a device."""
    return ModelResidency(
        model_id=model_id,
        status=ModelStatus.Loaded,
        tier=Tier.VRAM,
        tiers=[Tier.VRAM],
        bytes=GIB,
        precision=ModelPrecision.Float16,
        loaded_at=START,
        last_used=START,
        memory=ModelMemoryUsage(model_memory_bytes=GIB),
        performance=ModelPerformance(),
    )


def reply(assign: Assign) -> Reply:
    """What a worker answers."""
    model_id = assign.model.model_id if assign.model is not None else ""
    if assign.action == "generate":
        return GenerateReply(
            request_id=assign.request_id,
            action=assign.action,
            device_id=assign.device_id,
            model_id=model_id,
            seed=1,
            images=[],
            steps_done=20,
        )
    return LoadModelReply(
        request_id=assign.request_id,
        action=assign.action,
        device_id=assign.device_id,
        model_id=model_id,
        memory_usage=GIB,
        memory_added=GIB,
        load_time=700.0,
        load_time_ms=700.0,
        memory=ModelMemoryUsage(model_memory_bytes=GIB),
        optimizations_applied=[],
        loaded_at=START,
        options=[],
        cache=LoadCache(source=LoadSource.DISK),
    )


def telemetry() -> Telemetry:
    """Half of 8 GiB in use, all of it by idle models."""
    total, used = 8 * GIB, HELD * GIB
    pressure = MemoryPressure(
        level=PressureLevel.NORMAL,
        used_bytes=used,
        reclaimable_bytes=used,
        total_bytes=total,
        utilization=used / total,
        pressure=0.0,
    )
    return Telemetry(memory=DeviceMemory(total=total, used=used, free=total - used), memory_pressure=pressure)


class Rig:
    """A core and the fleet around it; the clock is real, the workers answer when told to."""

    def __init__(self, devices: int, seed: int) -> None:
        self.random = random.Random(seed)
        self.numbers = itertools.count()
        slots = [DeviceSlot(device_id=f"virtual:{index}", kind=DeviceKind.VIRTUAL) for index in range(devices)]
        limits = Limits(queued_per_client=1 << 20, queued_total=1 << 20)
        spec = BrokerSpec(
            commands="", events="", link="", devices=slots, limits=limits, silence_ms=10**9, version="bench"
        )
        fresh = itertools.count()
        self.core = Core(
            spec,
            "epoch",
            clock=time.monotonic,
            wall=lambda: datetime.now(UTC),
            new_id=lambda: f"own-{next(fresh)}",
            store=MemoryStore(),
        )
        self.waiting: deque[tuple[bytes, Assign]] = deque()
        self.commands: list[int] = []
        self.placements: list[int] = []
        self.finals: list[int] = []
        for slot in slots:
            self._register(slot.device_id)
        self._catalogue()

    def _register(self, device_id: str) -> None:
        worker = device_id.encode()
        identity = DeviceIdentity(
            device_id=device_id, uuid=device_id, name="virtual device", kind=DeviceKind.VIRTUAL, total_vram=8 * GIB
        )
        held = [residency(f"model-{number}") for number in self.random.sample(range(MODELS), HELD)]
        for header in (
            Register(worker_id=device_id, generation=1, pid=1, device=identity, ready=True),
            Report(ready=True, telemetry=telemetry(), models=held),
        ):
            self.core.handle(WorkerMessage(worker, header), time.monotonic())

    def _catalogue(self) -> None:
        models = [
            ModelRef(
                model_id=f"model-{number}",
                path=f"/models/model-{number}.vmodel.json",
                type=ModelType.SDXL,
                size_bytes=GIB,
                status=ModelStatus.Available,
            )
            for number in range(MODELS)
        ]
        for header in (
            Register(worker_id="catalog", generation=1, pid=1),
            CatalogEntries(entries=models, complete=True),
        ):
            self.core.handle(WorkerMessage(b"catalog", header), time.monotonic())

    def command(self) -> None:
        """One command of one of sixteen clients, timed."""
        number, model = next(self.numbers), self.random.randrange(MODELS)
        payload = BODY % (number, b"generate", model) if number % 5 else LOAD % (number, model)
        message = ClientMessage(b"client-%d" % (number % 16), (), payload)
        began = time.perf_counter_ns()
        effects = self.core.handle(message, time.monotonic())
        self.commands.append(time.perf_counter_ns() - began)
        self._note(effects)

    def place(self) -> None:
        """A placement alone, without its effects, timed."""
        context = self.core.context
        model = context.catalogue.models[f"model-{self.random.randrange(MODELS)}"]
        command = Generate(model_id=model.model_id, prompt="a lighthouse")
        began = time.perf_counter_ns()
        request = request_of(command, "generate", model)
        decide(request, None, context.fleet, context.estimates, time.monotonic())
        self.placements.append(time.perf_counter_ns() - began)

    def final(self) -> None:
        """The oldest assignment ends, timed."""
        worker, assign = self.waiting.popleft()
        facts = RunFacts(load_ms=None, run_ms=900.0, images=1, peak_bytes=GIB + (GIB >> 2))
        update = JobUpdate(
            request_id=assign.request_id,
            attempt=assign.attempt,
            state=ReplyState.COMPLETED,
            success=True,
            facts=facts
            if assign.action == "generate"
            else RunFacts(load_ms=700.0, source=LoadSource.DISK, weights_bytes=GIB),
        )
        message = WorkerMessage(worker, update, (encode_reply(reply(assign), assign.spelling),))
        began = time.perf_counter_ns()
        effects = self.core.handle(message, time.monotonic())
        self.finals.append(time.perf_counter_ns() - began)
        self._note(effects)

    def _note(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendWorker) and isinstance(effect.header, Assign):
                self.waiting.append((effect.worker, effect.header))

    def tick(self) -> None:
        due = self.core.next_at()
        if due is not None and due <= time.monotonic():
            self.core.handle(Tick(), time.monotonic())


def timing(nanoseconds: list[int]) -> Timing:
    """The figures of many events."""
    ordered = sorted(nanoseconds)
    return Timing(
        events=len(ordered),
        p50_us=ordered[len(ordered) // 2] / 1000,
        p99_us=ordered[len(ordered) * 99 // 100] / 1000,
        mean_us=statistics.fmean(ordered) / 1000,
    )


def measure(devices: int, commands: int, *, busy: bool) -> Row:
    """A fleet that is warmed up, then timed for so many commands."""
    rig = Rig(devices, seed=devices)
    depth = BUSY_FACTOR * devices if busy else 0
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    for _ in range(depth + 1000):
        rig.command()
        if not busy or len(rig.commands) > depth:
            rig.final()
    rig.commands.clear()
    rig.finals.clear()
    for _ in range(commands):
        rig.command()
        rig.place()
        rig.final()
        rig.tick()
    gc.unfreeze()
    return Row(
        devices=devices,
        load="busy" if busy else "idle",
        command=timing(rig.commands),
        placement=timing(rig.placements),
        final_reply=timing(rig.finals),
    )


def show(rows: list[Row]) -> None:
    print(f"{'devices':>8} {'load':<6} {'event':<12} {'p50 µs':>8} {'p99 µs':>8} {'mean µs':>8}")
    for row in rows:
        for name in ("command", "placement", "final_reply"):
            one: Timing = getattr(row, name)
            figures = f"{one.p50_us:>8.1f} {one.p99_us:>8.1f} {one.mean_us:>8.1f}"
            print(f"{row.devices:>8} {row.load:<6} {name:<12} {figures}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--commands", type=int, default=20_000, help="timed for each row")
    options = parser.parse_args()
    before = machine()
    rows = [measure(devices, options.commands, busy=busy) for devices in FLEETS for busy in (False, True)]
    show(rows)
    result = Result(machine=before, commands=options.commands, models=MODELS, models_held_by_each=HELD, rows=rows)
    print(f"load average before: {before.load_average_before:.2f}; written to {write('core', result)}")


if __name__ == "__main__":
    main()
