"""A model measured as it is now: time of a step, memory, and what it draws for fixed prompts and a fixed seed."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from modelfiles.modes import family_of
from protocol.enums import ModelPrecision
from worker import ladder
from worker.devices.base import DrawOrder, Raster
from worker.engine import Engine
from worker.job import Job
from worker.optimizing.settings import Settings
from worker.resident import Resident
from worker.using import in_use, limit_bytes

SMALL_SIDE = 256
"""Where no side is asked for: the model's own, up to this."""


class Measure(msgspec.Struct, frozen=True, kw_only=True):
    """`step_ms` of the denoiser, `run_ms` of a picture, both means over the prompts; bytes of the weights, of them on
    the device at rest, and at the peak of a run. `seconds` is what measuring took.
    """

    precision: ModelPrecision
    step_ms: float
    run_ms: float
    weights_bytes: int
    device_bytes: int
    peak_bytes: int
    pictures: list[Raster]
    latents: list[Any]
    seconds: float


def measure(engine: Engine, job: Job, resident: Resident, settings: Settings) -> Measure:
    """One run to warm up and to watch the memory of, then one for each prompt. Raises Fault."""
    began = time.perf_counter()
    pictures: list[Raster] = []
    latents: list[Any] = []
    denoise_ms = run_ms = 0.0
    with in_use(engine, resident), job.quiet():
        watched = _draw(engine, job, resident, _order(engine, resident, settings, settings.prompts[0], watched=True))
        for prompt in settings.prompts:
            order = _order(engine, resident, settings, prompt, watched=False)
            started = time.perf_counter()
            drawing = _draw(engine, job, resident, order)
            run_ms += (time.perf_counter() - started) * 1000
            denoise_ms += drawing.denoise_ms or 0.0
            pictures += drawing.images
            latents.append(drawing.latents)
    count = len(settings.prompts)
    return Measure(
        precision=resident.built.precision,
        step_ms=denoise_ms / count / settings.steps,
        run_ms=run_ms / count,
        weights_bytes=resident.bytes,
        device_bytes=resident.device_bytes,
        peak_bytes=watched.peak_bytes or resident.device_bytes,
        pictures=pictures,
        latents=latents,
        seconds=time.perf_counter() - began,
    )


def _draw(engine: Engine, job: Job, resident: Resident, order: DrawOrder) -> Any:
    job.check()
    return ladder.draw(engine, job, resident, order, allow_degraded=False)


def _order(engine: Engine, resident: Resident, settings: Settings, prompt: str, *, watched: bool) -> DrawOrder:
    side = _small_side(resident)
    return DrawOrder(
        prompt=prompt,
        negative_prompt="",
        width=settings.width or side,
        height=settings.height or side,
        steps=settings.steps,
        guidance_scale=None,
        seeds=[settings.seed],
        limit_bytes=limit_bytes(engine, resident),
        max_side=engine.spec.max_side,
        watched=watched,
        latents=True,
    )


def _small_side(resident: Resident) -> int:
    family = family_of(resident.file)
    if family is None:
        return SMALL_SIDE
    side = min(resident.file.native_side or family.native_side, SMALL_SIDE)
    return max(family.side_multiple, side // family.side_multiple * family.side_multiple)
