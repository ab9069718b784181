"""`optimize_model`: what a target's steps do to a model on this device, measured; what is kept stays, and is saved."""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from modelfiles.model import inspect
from protocol import commands as c
from protocol import replies as r
from protocol.checks import OPTIMIZED_FOLDER, optimized_name
from protocol.enums import CoordinationMode, ModelStatus, OptimizationLevel
from protocol.errors import ErrorCode, Fault, invalid
from protocol.link import RunFacts, SavedModel
from protocol.records import ModelInfo, ModelOptimizationResults
from protocol.version import VERSION
from worker import precision
from worker.engine import Engine, common
from worker.job import Job
from worker.optimizing.measuring import Measure
from worker.optimizing.optimizer import Optimizer, likeness
from worker.optimizing.settings import FIELD, Settings, settings_of
from worker.optimizing.steps import option_of
from worker.options import UNKNOWN_PARAMETER
from worker.resident import Resident
from worker.using import at_hand

SPARE_BYTES = 16 << 20
"""Beside the weights: configurations, vocabularies."""

PRESSURE, MODE = "memory_pressure_context", "coordination_mode"


def optimize_model(engine: Engine, job: Job, command: c.OptimizeModel) -> r.OptimizeModelReply:
    """Try the steps of the target's level, keep what is worth it, save where asked. Raises Fault; nothing is changed
    then."""
    began = time.perf_counter()
    settings = settings_of(command, msgspec.structs.replace(r.Limits(), max_side=engine.spec.max_side))
    brought = at_hand(engine, job, command.model_id, command.priority)
    place = _place(engine, job, command, brought.resident, settings)
    held_bytes = brought.resident.device_bytes
    optimizer = Optimizer(engine, job, brought.resident, settings)
    optimizer.run()
    saved = _saved(engine, job, command, optimizer, place) if place is not None else None
    resident = optimizer.resident
    coordination = _coordinated(engine, command, resident)
    job.facts = RunFacts(
        load_ms=brought.load_ms,
        source=brought.source,
        weights_bytes=resident.bytes,
        saved=SavedModel(model_id=saved.id, path=saved.file_path) if saved is not None else None,
    )
    elapsed_ms = (time.perf_counter() - began) * 1000
    options = optimizer.options + _unknown(settings, command)
    return r.OptimizeModelReply(
        **{**common(job), "model_id": resident.model_id},
        message=_message(optimizer, saved),
        optimization_time=elapsed_ms,
        optimization_time_ms=elapsed_ms,
        memory_freed=held_bytes - resident.device_bytes,
        vram_usage_after=resident.device_bytes,
        results=_results(optimizer),
        optimized_model=saved,
        optimized_at=datetime.now(UTC),
        options=options,
        coordination=coordination,
    )


def _message(optimizer: Optimizer, saved: ModelInfo | None) -> str:
    kept = ", ".join(step.value for step in optimizer.kept) or "nothing was worth keeping"
    return f"{optimizer.resident.model_id}: {kept}" + (f"; saved as {saved.id}" if saved is not None else "")


def _unknown(settings: Settings, command: c.OptimizeModel) -> list[r.OptionOutcome]:
    return [
        r.OptionOutcome(
            option=f"{FIELD}{name}", requested=command.parameters[name], applied=False, reason=UNKNOWN_PARAMETER
        )
        for name in settings.unknown
    ]


# saving


def _place(engine: Engine, job: Job, command: c.OptimizeModel, resident: Resident, settings: Settings) -> Path | None:
    """Where the result goes; None where nothing is saved. Raises Fault before anything is tried."""
    if not command.save_optimized:
        return None
    if settings.level is OptimizationLevel.NONE:
        job.warnings.append("save_optimized saves nothing at level None: nothing is changed")
        return None
    if resident.file.profile is not None:
        job.warnings.append("save_optimized saves nothing of a virtual model: a profile has no weights")
        return None
    name = optimized_name(command)
    place = engine.roots.folders[0] / OPTIMIZED_FOLDER / name
    if place.exists():
        raise invalid("optimized_model_name", name, f"a name that is free: {OPTIMIZED_FOLDER}/{name} exists")
    needed = precision.estimate_bytes(resident.file, resident.resolved.compute) + SPARE_BYTES
    free = shutil.disk_usage(engine.roots.folders[0]).free
    if needed > free:
        raise _unsaved(name, f"it needs {needed} bytes, and the disk has {free}")
    return place


def _saved(engine: Engine, job: Job, command: c.OptimizeModel, optimizer: Optimizer, place: Path) -> ModelInfo:
    """The folder written, and what it is. Raises Fault, and the model is as it was then."""
    began = time.perf_counter()
    resident = optimizer.resident
    try:
        resident.built.save(place, _provenance(command, optimizer), job)
        file = inspect(place, engine.roots)
    except BaseException as error:
        optimizer.undo()
        shutil.rmtree(place, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unsaved(place.name, error.strerror or type(error).__name__) from None
        raise
    job.phases["save_ms"] = (time.perf_counter() - began) * 1000
    now = datetime.now(UTC)
    return ModelInfo(
        id=place.name,
        name=place.name,
        type=file.type,
        file_path=file.path,
        file_size=file.size_bytes,
        size_bytes=file.size_bytes,
        status=ModelStatus.Available,
        last_updated=now,
        updated_at=now,
    )


def _unsaved(name: str, reason: str) -> Fault:
    details = {"field": "save_optimized", "reason": reason}
    return Fault(ErrorCode.INFERENCE_FAILED, f"{name} could not be saved: {reason}", details=details)


def _provenance(command: c.OptimizeModel, optimizer: Optimizer) -> dict[str, str]:
    """ModelSpec's words, and from what and how the model was made."""
    resident, now = optimizer.resident, datetime.now(UTC)
    configuration = msgspec.json.encode(resident.configuration).decode()
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": optimized_name(command),
        "modelspec.date": now.isoformat(timespec="seconds"),
        "modelspec.description": f"{resident.model_id}, optimised by vrambroker {VERSION}",
        "vrambroker.made_from": resident.model_id,
        "vrambroker.steps": ", ".join(step.value for step in optimizer.kept),
        "vrambroker.configuration": configuration,
    }


# figures


def _results(optimizer: Optimizer) -> ModelOptimizationResults:
    """Before against after, as measured; shares in percent.

    `quality_impact_score` is 1 - SSIM between the pictures now and those before (of a Quality target: those in
    Float32). `optimization_efficiency` is the mean of the two percentages, negative ones as 0, times SSIM, over 100.
    """
    before, now = optimizer.before, optimizer.now
    like = likeness(optimizer.reference, now)
    size = _percent_less(before.weights_bytes, now.weights_bytes)
    faster = _percent_less(before.step_ms, now.step_ms)
    impact = max(0.0, 1.0 - like.ssim)
    return ModelOptimizationResults(
        optimizations_applied=list(dict.fromkeys(option_of(step) for step in optimizer.kept)),
        original_size_bytes=before.weights_bytes,
        optimized_size_bytes=now.weights_bytes,
        size_reduction_percentage=size,
        estimated_performance_improvement=faster,
        quality_impact_score=impact,
        optimization_efficiency=(max(0.0, size) + max(0.0, faster)) / 2 / 100 * (1.0 - impact),
        detailed_metrics={
            **_told("before", before),
            **_told("after", now),
            "ssim": like.ssim,
            "psnr_db": like.psnr,
            "latent_distance": like.latent_distance,
            "peak_reduction_percentage": _percent_less(before.peak_bytes, now.peak_bytes),
        },
    )


def _told(when: str, measured: Measure) -> dict[str, float]:
    return {
        f"step_ms_{when}": measured.step_ms,
        f"run_ms_{when}": measured.run_ms,
        f"peak_bytes_{when}": float(measured.peak_bytes),
        f"device_bytes_{when}": float(measured.device_bytes),
    }


def _percent_less(before: float, now: float) -> float:
    return (before - now) / before * 100 if before else 0.0


# the host's hints


def _coordinated(engine: Engine, command: c.OptimizeModel, resident: Resident) -> r.Coordination | None:
    """What became of the hints; None where none was sent."""
    context, mode = command.memory_pressure_context, command.coordination_mode
    if context is None and mode is None:
        return None
    honoured: list[str] = []
    ignored: list[r.IgnoredHint] = []
    released = 0
    acts = mode is CoordinationMode.CACHE_AND_VRAM_OPTIMIZATION
    if mode is not None and acts and context is not None:
        honoured.append(MODE)
    elif mode is not None:
        reason = "it needs memory_pressure_context" if acts else "it changes nothing in an optimisation"
        ignored.append(r.IgnoredHint(hint=MODE, reason=reason))
    if context is not None and not acts:
        ignored.append(r.IgnoredHint(hint=PRESSURE, reason=f"{MODE} is not cache_and_vram_optimization"))
    elif context is not None and not context.memory_pressure_detected:
        ignored.append(r.IgnoredHint(hint=PRESSURE, reason="memory_pressure_detected is false"))
    elif context is not None and not context.model_in_cache:
        ignored.append(r.IgnoredHint(hint=PRESSURE, reason="model_in_cache is false: the host holds no copy of it"))
    elif context is not None:
        honoured.append(PRESSURE)
        released = engine.keeper.give_back(resident)
    tier = r.RamTier(bytes=engine.ram.used_bytes, budget_bytes=engine.ram.budget_bytes, released_bytes=released)
    return r.Coordination(mode=mode, honoured=honoured, ignored=ignored, ram_tier=tier)
