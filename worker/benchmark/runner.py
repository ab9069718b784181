"""The runs of a benchmark: warm-up, one that is watched for its memory, timed ones, and variants of size.

Every run is the same picture: same prompt, same seed. A variant that does not fit, or for which no time is left, says
so, and the others go on.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

from protocol.checks import MAX_SEED
from protocol.enums import BenchmarkType, Tier
from protocol.errors import ErrorCode, Fault
from protocol.records import Record
from settings import host
from worker import ladder
from worker.benchmark.sampling import Samples
from worker.benchmark.settings import Settings, Shape
from worker.devices.base import Drawing, DrawOrder
from worker.engine import Engine
from worker.job import Job
from worker.resident import Resident
from worker.using import limit_bytes

VARIANT_RUNS = 3
"""Timed runs of a variant at the most, after one of warm-up."""

DENSE_SECONDS, USUAL_SECONDS = 0.002, 0.02
PHASES = ("encode_ms", "denoise_ms", "decode_ms")
NOT_A_VARIANT = frozenset({ErrorCode.INSUFFICIENT_MEMORY, ErrorCode.INVALID_ARGUMENT})
"""What ends a variant and not the benchmark."""


class Timed(Record, frozen=True, kw_only=True):
    """Timed runs of one shape: milliseconds of each, of all by the clock, and of its phases."""

    times_ms: list[float]
    wall_ms: float
    phases_ms: dict[str, float]
    pictures: list[str]


class Watched(Record, frozen=True, kw_only=True):
    """What one run beside the timed ones took, in bytes; `mean_bytes` of `samples` samples."""

    peak_bytes: int | None
    mean_bytes: int
    samples: int


class Runner:
    """One benchmark of a model that is on its device."""

    def __init__(self, engine: Engine, job: Job, resident: Resident, settings: Settings) -> None:
        self._engine = engine
        self._job = job
        self._resident = resident
        self._settings = settings
        self._done = 0
        self._total = (
            settings.warmup_runs + settings.runs + len(settings.variants) * (1 + min(settings.runs, VARIANT_RUNS))
        )
        self.timed_seconds = 0.0
        self._mean_seconds = 0.0

    def warm_up(self) -> None:
        """Runs that count for nothing."""
        for _ in range(self._settings.warmup_runs):
            self._run(self._settings.shape)

    def watched(self) -> Watched:
        """One run, its memory sampled: what the model and its work take, without what others hold here."""
        device = self._engine.device
        others = device.gauge().used - self._resident.device_bytes
        dense = self._settings.type is BenchmarkType.MEMORY
        with Samples(device.in_use_bytes, lambda: (None, None), DENSE_SECONDS if dense else USUAL_SECONDS) as samples:
            drawing, _ = self._draw(self._settings.shape, watched=True)
        mean = max(0, int(samples.mean_bytes) - others)
        return Watched(peak_bytes=drawing.peak_bytes, mean_bytes=mean, samples=len(samples.bytes))

    def timed(self) -> Timed:
        """The runs that were asked for, or as many as a stress lasts."""
        settings = self._settings
        return self._series(settings.shape, None if settings.stress_seconds else settings.runs)

    def variants(self) -> Iterator[dict[str, Any]]:
        """Every variant, as the reply has it. Raises Fault for what ends the benchmark."""
        for shape in self._settings.variants:
            told: dict[str, Any] = {"width": shape.width, "height": shape.height, "batch_size": shape.batch_size}
            refused = self._refused(shape)
            if not refused:
                try:
                    told |= self._variant(shape)
                except Fault as fault:
                    if fault.code not in NOT_A_VARIANT:
                        raise
                    refused = fault.info.message
                    told["code"] = fault.code.value
            if refused:
                told |= {"average_ms": None, "throughput": None, "memory_peak": None, "error": refused}
            yield told

    def _variant(self, shape: Shape) -> dict[str, Any]:
        drawing, _ = self._draw(shape, watched=self._settings.track_memory)
        self._advance()
        timed = self._series(shape, min(self._settings.runs, VARIANT_RUNS))
        average = sum(timed.times_ms) / len(timed.times_ms)
        return {
            "average_ms": average,
            "throughput": shape.batch_size / average * 1000,
            "memory_peak": drawing.peak_bytes,
            "runs": len(timed.times_ms),
        }

    def _refused(self, shape: Shape) -> str:
        """Why a variant is not begun: its work would not fit, or would not be done in time; "" where it is."""
        expected = self._resident.built.working_bytes(self._order(shape, watched=False))
        room = self._engine.keeper.room()
        could = room.free + self._engine.cache.reclaimable_bytes(but=self._resident.model_id)
        if not self._engine.device.counts_work:
            could = host.available_bytes() or could
        if expected > could:
            return f"it is expected to need {expected} bytes beside the model: {could} can be had"
        left, one = self._job.seconds_left, self._expected_seconds(shape)
        runs = 1 + min(self._settings.runs, VARIANT_RUNS)
        if left is not None and one * runs > left:
            return f"it is expected to take {one * runs:.0f} s: {left:.0f} s of the deadline are left"
        return ""

    def _expected_seconds(self, shape: Shape) -> float:
        """By the pixels, from what a run of the shape asked for took."""
        return self._mean_seconds * shape.pixels / self._settings.shape.pixels

    def _series(self, shape: Shape, count: int | None) -> Timed:
        times, phases, pictures = list[float](), dict[str, float](), dict[str, None]()
        began = time.perf_counter()
        while (len(times) < count) if count is not None else self._stressed(began, times):
            drawing, ms = self._draw(shape)
            times.append(self._measure(drawing, ms))
            pictures[_digest(drawing)] = None
            for name in PHASES:
                phases[name] = phases.get(name, 0.0) + (getattr(drawing, name) or 0.0)
            if count is None:
                lasted, whole = int(time.perf_counter() - began), max(1, int(self._settings.stress_seconds))
                self._job.step(min(lasted, whole), whole, None)
            else:
                self._advance()
        wall_ms = (time.perf_counter() - began) * 1000
        self.timed_seconds += wall_ms / 1000
        if shape == self._settings.shape:
            self._mean_seconds = wall_ms / len(times) / 1000
        return Timed(
            times_ms=times,
            wall_ms=wall_ms,
            phases_ms={name: total / len(times) for name, total in phases.items()},
            pictures=list(pictures),
        )

    def _stressed(self, began: float, times: list[float]) -> bool:
        return not times or time.perf_counter() - began < self._settings.stress_seconds

    def _measure(self, drawing: Drawing, ms: float) -> float:
        """What counts of a run: the denoiser alone where that is asked for, else all of it."""
        if self._settings.type is BenchmarkType.COMPUTE and drawing.denoise_ms is not None:
            return drawing.denoise_ms
        return ms

    def _run(self, shape: Shape) -> None:
        self._draw(shape)
        self._advance()

    def _advance(self) -> None:
        self._done += 1
        self._job.step(min(self._done, self._total), self._total, None)

    def _draw(self, shape: Shape, *, watched: bool = False) -> tuple[Drawing, float]:
        self._job.check()
        if (
            self._engine.cache.get(self._resident.model_id) is not self._resident
            or self._resident.tier is not Tier.VRAM
        ):
            text = f"{self._resident.model_id} had to leave the device in the middle of its benchmark"
            raise Fault(ErrorCode.INSUFFICIENT_MEMORY, text)
        order = self._order(shape, watched=watched)
        began = time.perf_counter()
        with self._job.quiet():
            drawing = ladder.draw(self._engine, self._job, self._resident, order, allow_degraded=False)
        return drawing, (time.perf_counter() - began) * 1000

    def _order(self, shape: Shape, *, watched: bool) -> DrawOrder:
        settings = self._settings
        return DrawOrder(
            prompt=settings.prompt,
            negative_prompt=settings.negative_prompt,
            width=shape.width,
            height=shape.height,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            seeds=[(settings.seed + index) % (MAX_SEED + 1) for index in range(shape.batch_size)],
            scheduler=settings.scheduler,
            limit_bytes=limit_bytes(self._engine, self._resident),
            max_side=self._engine.spec.max_side,
            watched=watched,
        )


def _digest(drawing: Drawing) -> str:
    state = hashlib.sha256()
    for image in drawing.images:
        state.update(image.rgb)
    return state.hexdigest()
