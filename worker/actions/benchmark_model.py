"""`benchmark_model`: a model's time, throughput and memory on this device, from runs made for it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from protocol import commands as c
from protocol.enums import BenchmarkType
from protocol.link import RunFacts
from protocol.records import ModelBenchmarkResults
from protocol.replies import BenchmarkModelReply, Limits
from worker.benchmark.figures import overall_score, throughput_stats, time_stats
from worker.benchmark.runner import Runner, Timed, Watched
from worker.benchmark.sampling import Samples
from worker.benchmark.settings import FIELD, Settings, settings_of
from worker.devices.readings import Sensors
from worker.engine import Engine, common
from worker.job import Job
from worker.loading import Brought
from worker.resident import Resident
from worker.using import at_hand, in_use

SENSOR_SECONDS = 0.05
NO_METER = "this device has no meter of its energy"
MOST_TIMES = 1000
"""Single times that the reply has at the most."""


def benchmark_model(engine: Engine, job: Job, command: c.BenchmarkModel) -> BenchmarkModelReply:
    """Load the model where it is not there, run it, and tell what was measured. Raises Fault."""
    limits = msgspec.structs.replace(Limits(), max_side=engine.spec.max_side, num_images=engine.spec.max_images)
    settings = settings_of(command, limits)
    job.warnings += [f"{FIELD}{name} is no parameter of a benchmark" for name in settings.unknown]
    brought = at_hand(engine, job, command.model_id, command.priority)
    resident = brought.resident
    with in_use(engine, resident):
        measured = _measured(engine, job, resident, settings)
    resident.note_run(succeeded=True)
    if settings.type is not BenchmarkType.COMPUTE:
        peak = measured.watched.peak_bytes if measured.watched else None
        for ms in measured.timed.times_ms:
            resident.note_drawing(ms, settings.shape.batch_size, peak)
    job.facts = _facts(resident, brought, settings, measured, saved=command.save_results)
    return _reply(engine, job, command, resident, settings=settings, measured=measured)


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """All that one benchmark found."""

    timed: Timed
    watched: Watched | None
    variants: list[dict[str, Any]]
    seconds: float
    utilization: Sequence[float]
    watts: Sequence[float]
    energy_j: float | None
    cpu_seconds: float


def _measured(engine: Engine, job: Job, resident: Resident, settings: Settings) -> Measured:
    runner, device = Runner(engine, job, resident, settings), engine.device
    began = time.perf_counter()
    runner.warm_up()
    watched = runner.watched() if settings.track_memory else None
    job.phases["warmup_ms"] = (time.perf_counter() - began) * 1000

    def sensors() -> tuple[float | None, float | None]:
        found: Sensors = device.sensors()
        return found.utilization, found.power_w

    began = time.perf_counter()
    before, cpu = device.sensors().energy_j, time.process_time()
    with Samples(device.in_use_bytes, sensors, SENSOR_SECONDS) as samples:
        timed = runner.timed()
    after, cpu = device.sensors().energy_j, time.process_time() - cpu
    variants = list(runner.variants())
    job.phases["runs_ms"] = (time.perf_counter() - began) * 1000
    return Measured(
        timed=timed,
        watched=watched,
        variants=variants,
        seconds=runner.timed_seconds,
        utilization=samples.utilization,
        watts=samples.watts,
        energy_j=after - before if after is not None and before is not None else None,
        cpu_seconds=cpu,
    )


def _facts(resident: Resident, brought: Brought, settings: Settings, measured: Measured, *, saved: bool) -> RunFacts:
    """What is kept of it: of runs alone where the results are to be saved, and of whole pictures."""
    load = RunFacts(load_ms=brought.load_ms, source=brought.source, weights_bytes=resident.bytes)
    if not saved or settings.type is BenchmarkType.COMPUTE:
        return load
    count = len(measured.timed.times_ms)
    return msgspec.structs.replace(
        load,
        run_ms=sum(measured.timed.times_ms),
        runs=count,
        images=count * settings.shape.batch_size,
        peak_bytes=measured.watched.peak_bytes if measured.watched else None,
        steps=settings.steps,
        width=settings.shape.width,
        height=settings.shape.height,
    )


def _reply(
    engine: Engine,
    job: Job,
    command: c.BenchmarkModel,
    resident: Resident,
    *,
    settings: Settings,
    measured: Measured,
) -> BenchmarkModelReply:
    not_measured: dict[str, str] = {
        path: why for path, why in resident.not_measured().items() if not path.startswith("performance.")
    }
    times, batch, timed = measured.timed.times_ms, settings.shape.batch_size, measured.timed
    stats, throughput = time_stats(times), throughput_stats(times, batch, timed.wall_ms)
    watched = measured.watched
    if watched is None or watched.peak_bytes is None:
        reason = "track_memory_usage is false" if not settings.track_memory else "this device counts no peak"
        not_measured["memory_peak"] = reason
    if watched is None:
        not_measured["memory_avg"] = "track_memory_usage is false"
    results = ModelBenchmarkResults(
        overall_score=overall_score(stats, settings.shape.pixels, settings.steps),
        inference_time_stats=stats,
        throughput_stats=throughput,
        quality_metrics={
            "equal_pictures": 1.0 if len(timed.pictures) == 1 else 0.0,
            "different_pictures": float(len(timed.pictures)),
            "time_variation": stats.standard_deviation / stats.average,
        },
        resource_utilization=_utilization(engine, settings, measured, not_measured),
        benchmark_configuration=_configuration(engine, resident, command, settings, measured),
    )
    return BenchmarkModelReply(
        **{**common(job), "model_id": resident.model_id},
        message=f"{len(times)} runs of {stats.average:.1f} ms, {throughput.average:.2f} images a second",
        avg_inference_time=stats.average,
        min_inference_time=stats.minimum,
        max_inference_time=stats.maximum,
        throughput=throughput.average,
        memory_peak=(watched.peak_bytes or 0) if watched else 0,
        memory_avg=watched.mean_bytes if watched else 0,
        total_time=measured.seconds,
        results=results,
        benchmark_duration_seconds=measured.seconds,
        performance_metrics=resident.performance(engine.spec.device_id),
        memory_usage=resident.memory(),
        benchmarked_at=datetime.now(UTC),
        not_measured=not_measured,
    )


def _utilization(
    engine: Engine, settings: Settings, measured: Measured, not_measured: dict[str, str]
) -> dict[str, float]:
    """Shares of what there is, 0-1, milliseconds of the phases, and what a meter said."""
    path, timed = "results.resource_utilization.", measured.timed
    wall = timed.wall_ms / 1000
    found = {"cpu": measured.cpu_seconds / wall / (os.cpu_count() or 1), **timed.phases_ms}
    if "denoise_ms" in timed.phases_ms:
        found["per_step_ms"] = timed.phases_ms["denoise_ms"] / settings.steps
    peak = measured.watched.peak_bytes if measured.watched else None
    if peak is not None:
        found["memory"] = peak / engine.device.gauge().total
    if measured.utilization:
        found["device"] = sum(measured.utilization) / len(measured.utilization)
    else:
        not_measured[f"{path}device"] = "this device tells no utilisation"
    if measured.watts:
        found["power_w"] = sum(measured.watts) / len(measured.watts)
    else:
        not_measured[f"{path}power_w"] = "this device has no meter of its power"
    if measured.energy_j is not None:
        found["energy_j"] = measured.energy_j
        found["energy_per_image_j"] = measured.energy_j / (len(timed.times_ms) * settings.shape.batch_size)
    else:
        not_measured |= {f"{path}{name}": NO_METER for name in ("energy_j", "energy_per_image_j")}
    return found


def _configuration(
    engine: Engine, resident: Resident, command: c.BenchmarkModel, settings: Settings, measured: Measured
) -> dict[str, Any]:
    """What was run, where, and on what."""
    identity = engine.device.identity()
    return {
        "benchmark_type": settings.type.value,
        "input_width": settings.shape.width,
        "input_height": settings.shape.height,
        "batch_size": settings.shape.batch_size,
        "inference_steps": settings.steps,
        "prompt": settings.prompt,
        "negative_prompt": settings.negative_prompt,
        "seed": settings.seed,
        "guidance_scale": settings.guidance_scale,
        "scheduler": settings.scheduler,
        "warmup_runs": settings.warmup_runs,
        "benchmark_runs": len(measured.timed.times_ms),
        "duration_seconds": settings.stress_seconds or None,
        "track_memory_usage": settings.track_memory,
        "memory_samples": measured.watched.samples if measured.watched else 0,
        "save_results": command.save_results,
        "precision": resident.built.precision.value,
        "options": [outcome.option for outcome in resident.options if outcome.applied],
        "device": {"device_id": identity.device_id, "name": identity.name, "kind": identity.kind.value},
        "software": engine.device.software(),
        "times_ms": measured.timed.times_ms[:MOST_TIMES],
        "variants": measured.variants,
    }
