"""`unload_model`: VRAM to RAM, or out of both with `clear_cache`; the bytes freed are measured."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from protocol import commands as c
from protocol.enums import LoadPriority, Tier
from protocol.errors import ErrorCode, Fault
from protocol.replies import UnloadModelReply
from worker.engine import Engine, common
from worker.job import Job
from worker.resident import FOREVER, Resident


def unload_model(engine: Engine, job: Job, command: c.UnloadModel) -> UnloadModelReply:
    """Take a model off the device. One that is not held succeeds with nothing freed and a warning.

    Raises Fault MODEL_IN_USE while work holds the model.
    """
    began = time.perf_counter()
    resident = engine.cache.get(command.model_id)
    freed = ram_freed = 0
    if resident is None:
        job.warnings.append(f"{command.model_id} is not on {engine.spec.device_id}")
        message = f"{command.model_id} was not held"
    elif resident.busy:
        raise Fault(ErrorCode.MODEL_IN_USE, f"{command.model_id} is in use on {engine.spec.device_id}")
    elif resident.tier is Tier.VRAM:
        _forget(resident)
        freed, ram_freed = engine.keeper.leave(resident, "unloaded", clear=command.clear_cache)
        message = _left(engine, resident, command.clear_cache)
    elif command.clear_cache:
        ram_freed = engine.keeper.drop_ram(resident, "unloaded")
        message = f"{command.model_id} left the RAM tier"
    else:
        job.warnings.append(f"{command.model_id} is in the RAM tier alone: clear_cache takes it out")
        message = f"{command.model_id} was not on the device"
    elapsed_ms = (time.perf_counter() - began) * 1000
    job.phases["free_ms"] = elapsed_ms
    return UnloadModelReply(
        **{**common(job), "model_id": command.model_id},
        message=message,
        memory_freed=freed,
        ram_freed=ram_freed,
        unload_time_ms=elapsed_ms,
        memory_freed_bytes=freed,
        cache_cleared=engine.cache.get(command.model_id) is None,
        unloaded_at=datetime.now(UTC),
    )


def _forget(resident: Resident) -> None:
    """An unload ends what the last load asked for."""
    resident.priority = LoadPriority.Normal
    resident.keep_alive_seconds = FOREVER
    resident.pinned = False


def _left(engine: Engine, resident: Resident, clear: bool) -> str:
    if clear:
        return f"{resident.model_id} left the device and the RAM tier"
    if engine.cache.get(resident.model_id) is resident:
        return f"{resident.model_id} left the device for the RAM tier"
    if not resident.keeps_ram_copy:
        return f"{resident.model_id} left the device; no RAM copy is kept, since the host holds the file"
    budget = engine.ram.budget_bytes
    return f"{resident.model_id} left the device; its {resident.bytes} bytes do not fit the RAM tier of {budget}"
