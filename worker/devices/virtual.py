"""A device that is only bytes and times: for load tests, soak tests and host development. Never imports torch.

Bytes, times and peaks are those of the model's profile; waits are real, so cancels and deadlines act as on hardware.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import ClassVar

from modelfiles.contents import Content
from modelfiles.model import Kind
from modelfiles.profiles import VirtualProfile
from protocol.enums import DeviceKind, LoadSource, ModelPrecision
from protocol.errors import ErrorCode, Fault
from protocol.link import PROFILE_RAM_SHARE, WorkerSpec
from protocol.telemetry import DeviceIdentity
from protocol.version import VERSION
from ramtier.blocks import Block
from worker.devices.base import (
    Build,
    BuiltModel,
    Device,
    Drawing,
    DrawOrder,
    LostError,
    PartBytes,
    Raster,
)
from worker.devices.ledger import Ledger
from worker.devices.readings import SENSORS, Gauge, Sensors
from worker.job import Job
from worker.prefetch import LOOK_SECONDS, Full, Watch

DEFAULT_STEPS = 20
MAX_SIDE = 64

SIMULATED = "a virtual device has none"


class VirtualOutOfMemoryError(MemoryError):
    """A placement beyond the budget."""


class VirtualDevice(Device):
    """A budget of bytes."""

    precisions: ClassVar[tuple[ModelPrecision, ...]] = (ModelPrecision.Float16,)

    def __init__(self, spec: WorkerSpec) -> None:
        self.out_of_memory = VirtualOutOfMemoryError
        self.computes_well = (ModelPrecision.Float16,)
        self.ledger = Ledger(spec.budget_bytes, VirtualOutOfMemoryError)
        self._identity = DeviceIdentity(
            device_id=spec.device_id,
            uuid=f"VIRTUAL-{spec.device_id.replace(':', '-')}",
            name="virtual device",
            kind=DeviceKind.VIRTUAL,
            total_vram=spec.budget_bytes,
        )

    def identity(self) -> DeviceIdentity:
        return self._identity

    def start(self) -> None:
        pass

    def gauge(self) -> Gauge:
        used = self.ledger.used_bytes
        return Gauge(
            total=self.ledger.total_bytes,
            used=used,
            free=self.ledger.total_bytes - used,
            allocated=used,
            peak=self.ledger.peak_bytes,
            missing=dict.fromkeys(("torch", "memory.reserved"), SIMULATED),
        )

    def glance(self) -> None:
        pass

    def sensors(self) -> Sensors:
        return Sensors(missing=dict.fromkeys(SENSORS, SIMULATED))

    def build(self, build: Build, job: Job, tell: Callable[[str, int], None]) -> BuiltModel:
        file = build.file
        if file.kind is not Kind.VIRTUAL or file.profile is None:
            text = "a virtual device takes .vmodel.json profiles alone"
            raise Fault(ErrorCode.MODEL_INCOMPATIBLE, text)
        tell("read", 0)
        began = time.monotonic()
        content = Content.read(file.path)
        parts = [PartBytes(name=p.name, type=p.type, path=p.path, bytes=p.tensor_bytes) for p in file.parts]
        model = VirtualModel(self, file.profile, parts, build.precision, _keys(content, parts))
        model.contents = [content]
        if not build.anew and all(self.ram.has(key) for key in model.keys):
            model.source = LoadSource.RAM
        share = PROFILE_RAM_SHARE if model.source is LoadSource.RAM else 1.0
        job.wait(file.profile.load_ms * share / 1000)
        job.phases["read_ms"] = (time.monotonic() - began) * 1000
        tell("promote", file.profile.bytes)
        file.fingerprints[0].verify(Path(file.path).stat())
        return model

    def prefetch(self, build: Build, watch: Watch) -> int:
        profile = build.file.profile
        if profile is None:
            return 0
        content = Content.read(build.file.path)
        parts = {_key(content, part.name): part.tensor_bytes for part in build.file.parts}
        sizes = {key: size for key, size in parts.items() if not self.ram.has(key)}
        if not sizes:
            return 0
        end = time.monotonic() + profile.load_ms / 1000
        while (left := end - time.monotonic()) > 0:
            watch.check()
            time.sleep(min(left, LOOK_SECONDS))
        wanted = self.ram.reserve(sizes, evict=False)
        if wanted is None:
            raise Full
        for key in wanted:
            self.ram.publish(key, Block.make("virtual", sizes[key]), spare=True)
        self.ram.let_go([key for key in sizes if key not in wanted])
        return sum(sizes[key] for key in wanted)

    def examine(self, build: Build, job: Job) -> int:
        return len(build.file.parts)

    def computes(self) -> dict[ModelPrecision, str]:
        return {}

    def operations_per_second(self, precision: ModelPrecision) -> float | None:
        return None

    def capability(self) -> dict[str, str]:
        return {}

    def software(self) -> dict[str, str]:
        return {"vrambroker": VERSION}

    def refuses(self, flag: str) -> str:
        return super().refuses(flag) or "a virtual device has bytes and times, and computes nothing"

    def tend(self) -> None:
        pass

    def trim(self) -> None:
        pass

    def reclaim(self) -> None:
        pass


class VirtualModel(BuiltModel):
    """A profile that takes up room."""

    def __init__(
        self,
        device: VirtualDevice,
        profile: VirtualProfile,
        parts: list[PartBytes],
        precision: ModelPrecision,
        keys: list[str],
    ) -> None:
        self.precision = precision
        self.parts = parts
        self._device = device
        self._profile = profile
        self._placed_bytes = 0
        self._keys = [(key, part.bytes) for key, part in zip(keys, parts, strict=True)]
        self._is_in_ram = False
        self._claims = ExitStack()

    @property
    def keys(self) -> list[str]:
        return [key for key, _ in self._keys]

    def claim(self) -> None:
        if self._is_in_ram:
            lent = [self._claims.enter_context(self._device.ram.lent(key)) for key, _ in self._keys]
            if None in lent:
                self._claims.close()
                raise LostError("it has left the RAM tier")

    def disclaim(self) -> None:
        self._claims.close()

    def promote(self, job: Job | None) -> None:
        self._device.ledger.take(self._profile.bytes)
        self._placed_bytes = self._profile.bytes
        if self._is_in_ram and job is not None:
            try:
                job.wait(self._profile.load_ms * PROFILE_RAM_SHARE / 1000)
            except Fault:
                self.step_aside()
                raise
        self._is_in_ram = False

    def copy(self, *, evict: bool) -> Generator[None, None, bool]:
        sizes = dict(self._keys)
        wanted = self._device.ram.reserve(sizes, evict=evict)
        for key in wanted or ():
            # A memory file takes up what was written to it: nothing.
            self._device.ram.publish(key, Block.make("virtual", sizes[key]))
        yield
        return wanted is not None

    def keep_copy(self) -> bool:
        return self._device.ram.hold(self.keys)

    def demote(self) -> None:
        self.step_aside()
        self._is_in_ram = True

    def step_aside(self) -> None:
        self._device.ledger.give(self._placed_bytes)
        self._placed_bytes = 0

    def release(self) -> int:
        self.step_aside()
        return self._device.ram.let_go(self.keys)

    def mend(self) -> None:
        pass

    def working_bytes(self, order: DrawOrder) -> int:
        return max(0, self._profile.peak_bytes - self._profile.bytes)

    def draw(self, order: DrawOrder, job: Job) -> Drawing:
        entered = time.monotonic()
        steps = order.steps or DEFAULT_STEPS
        step_seconds = self._profile.step_ms / 1000
        began = time.monotonic()
        for done in range(1, steps + 1):
            job.wait(step_seconds)
            job.step(done, steps, (steps - done) * self._profile.step_ms)
        denoised = time.monotonic()
        width, height = min(order.width or MAX_SIDE, MAX_SIDE), min(order.height or MAX_SIDE, MAX_SIDE)
        warnings = []
        if (order.width or 0) > MAX_SIDE or (order.height or 0) > MAX_SIDE:
            warnings.append(f"a virtual device draws at most {MAX_SIDE} x {MAX_SIDE} pixels")
        images = [_raster(seed, width, height) for seed in order.seeds]
        return Drawing(
            images=images,
            steps_done=steps,
            encode_ms=(began - entered) * 1000,
            denoise_ms=(denoised - began) * 1000,
            decode_ms=(time.monotonic() - denoised) * 1000,
            peak_bytes=self._profile.peak_bytes,
            warnings=warnings,
        )


def _keys(content: Content, parts: list[PartBytes]) -> list[str]:
    return [_key(content, part.name) for part in parts]


def _key(content: Content, part: str) -> str:
    """What a part of a profile is called in the RAM tier; another content has other parts."""
    told = f"{content.fingerprint.path} {content.digest} {part}"
    return hashlib.blake2b(told.encode(errors="surrogateescape"), digest_size=16).hexdigest()


def _raster(seed: int, width: int, height: int) -> Raster:
    return Raster(width=width, height=height, rgb=random.Random(seed).randbytes(width * height * 3))
