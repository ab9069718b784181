"""What a benchmark is asked to run. Decides what each parameter means, and names one that makes no sense."""

from __future__ import annotations

from protocol import commands as c
from protocol.checks import MAX_SEED
from protocol.enums import BenchmarkType
from protocol.records import ModelBenchmarkConfiguration, Record
from protocol.replies import Limits
from worker.parameters import Parameters

PROMPT = "a lighthouse at the sea, in the evening"
SEED = 1
STRESS_SECONDS = 60.0
MOST_STRESS_SECONDS = 86_400.0
SCALES = (0.5, 1.0, 1.5)
FIELD = "configuration.parameters."


class Shape(Record, frozen=True, kw_only=True):
    """One size of run: pixels, images of one batch."""

    width: int
    height: int
    batch_size: int

    @property
    def pixels(self) -> int:
        return self.width * self.height * self.batch_size


class Settings(Record, frozen=True, kw_only=True):
    """A benchmark, its defaults filled in. `stress_seconds` 0: as many runs as were asked for."""

    type: BenchmarkType
    shape: Shape
    variants: tuple[Shape, ...]
    steps: int
    warmup_runs: int
    runs: int
    track_memory: bool
    stress_seconds: float
    prompt: str
    negative_prompt: str
    seed: int
    guidance_scale: float | None
    scheduler: str
    unknown: tuple[str, ...]


def settings_of(command: c.BenchmarkModel, limits: Limits) -> Settings:
    """What the command asks for. Raises Fault INVALID_ARGUMENT."""
    asked, kind = command.configuration, command.benchmark_type
    parameters = Parameters(asked.parameters, FIELD, limits.prompt_bytes)
    guidance = parameters.number("guidance_scale", None, 0.0, 1000.0)
    seconds = parameters.number("duration_seconds", STRESS_SECONDS, 0.001, MOST_STRESS_SECONDS)
    shape = Shape(width=asked.input_width, height=asked.input_height, batch_size=asked.batch_size)
    return Settings(
        type=kind,
        shape=shape,
        variants=_variants(shape, asked, limits, all_of_them=kind is BenchmarkType.MIXED),
        steps=asked.inference_steps,
        warmup_runs=command.warmup_runs,
        runs=command.benchmark_runs,
        track_memory=command.track_memory_usage or kind is BenchmarkType.MEMORY,
        stress_seconds=seconds if kind is BenchmarkType.STRESS else 0.0,
        prompt=parameters.text("prompt", PROMPT),
        negative_prompt=parameters.text("negative_prompt", ""),
        seed=parameters.whole("seed", SEED, 0, MAX_SEED) or 0,
        guidance_scale=guidance,
        scheduler=parameters.text("scheduler", ""),
        unknown=parameters.unknown(),
    )


def _variants(
    own: Shape, asked: ModelBenchmarkConfiguration, limits: Limits, *, all_of_them: bool
) -> tuple[Shape, ...]:
    """Batches of 1, 2, 4 ... at the size asked for, and half, once and one and a half times that size."""
    found: dict[Shape, None] = {}
    if asked.test_batch_sizes or all_of_them:
        size = 1
        while size <= limits.num_images:
            found[Shape(width=own.width, height=own.height, batch_size=size)] = None
            size *= 2
    if asked.test_resolutions or all_of_them:
        for scale in SCALES:
            width, height = _scaled(own.width, scale, limits), _scaled(own.height, scale, limits)
            found[Shape(width=width, height=height, batch_size=own.batch_size)] = None
    return tuple(found)


def _scaled(side: int, scale: float, limits: Limits) -> int:
    whole = int(side * scale) // limits.side_multiple * limits.side_multiple
    return min(max(limits.min_side, whole), limits.max_side)
