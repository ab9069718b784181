"""A picture whose run does not fit the device: who leaves for it, and what it is drawn with instead of failing.

Decides the order: the cheapest idle models, then all of them, then one rung of `LADDER` after the other where the
command allows that. The rung that was enough for a shape of run is the first one for the next of that shape, unless
more is free by then.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec

from protocol.errors import Fault, Recovery
from settings.logs import Logger
from worker.devices.base import Drawing, DrawOrder, Rung
from worker.engine import Engine
from worker.job import Job
from worker.resident import Resident
from worker.work import Shape

LADDER = (
    (Rung.TILING,),
    (Rung.TILING, Rung.SLICING),
    (Rung.TILING, Rung.SLICING, Rung.OFFLOADING),
    (Rung.TILING, Rung.SLICING, Rung.SPLITTING),
)
"""Each takes less memory and more time than the one before; the first alone changes a picture, at its tiles' seams."""

log = Logger()


def draw(engine: Engine, job: Job, resident: Resident, order: DrawOrder, *, allow_degraded: bool) -> Drawing:
    """The drawing, degraded where nothing else helps and that is allowed. Raises Fault INSUFFICIENT_MEMORY."""
    shape = Shape.of(order)
    free_bytes = engine.keeper.room().free
    known, then = resident.rungs.get(shape, (None, 0))
    if not allow_degraded or free_bytes > then:
        known = None
    if known is None:
        engine.keeper.make_way(resident, resident.built.working_bytes(order))
        drawing = _attempt(engine, job, resident, order)
        if drawing is None and _held(engine, resident):
            engine.keeper.empty(resident.model_id)
            drawing = _attempt(engine, job, resident, order)
        if drawing is not None:
            return drawing
    rungs = [rung for rung in LADDER if set(rung) <= resident.built.rungs] if allow_degraded else []
    for rung in rungs[rungs.index(known) if known in rungs else 0 :]:
        if not _held(engine, resident):
            break
        drawing = _attempt(engine, job, resident, msgspec.structs.replace(order, rung=rung))
        if drawing is not None:
            resident.note_rung(shape, rung, free_bytes)
            words = ", ".join(one.value for one in rung)
            log.warning("a picture was drawn with less memory", model_id=resident.model_id, by=words)
            text = f"its peak would not fit {engine.spec.device_id}: it was drawn with {words}"
            return msgspec.structs.replace(drawing, warnings=[*drawing.warnings, text])
    raise _insufficient(engine, resident, degraded=bool(rungs), allowed=allow_degraded)


def mend(engine: Engine, resident: Resident) -> None:
    """After a failed run everything is as before it; a model that cannot be brought back is built anew next time."""
    mended = False
    with suppress(engine.device.out_of_memory):
        resident.built.mend()
        mended = True
    if not mended:
        engine.keeper.leave(resident, "unloaded: a failed run left it changed", clear=True)


def _attempt(engine: Engine, job: Job, resident: Resident, order: DrawOrder) -> Drawing | None:
    """One run; None where the device ran out of memory. Memory is reclaimed once nothing refers to it any more."""
    try:
        return resident.built.draw(order, job)
    except engine.device.out_of_memory:
        engine.sampler.note_oom()
    engine.device.reclaim()
    mend(engine, resident)
    return None


def _held(engine: Engine, resident: Resident) -> bool:
    return engine.cache.get(resident.model_id) is resident


def _insufficient(engine: Engine, resident: Resident, *, degraded: bool, allowed: bool) -> Fault:
    needed = max(resident.highest_bytes, resident.bytes + 1)
    fault = engine.cache.insufficient(needed, engine.keeper.room())
    text = f"{resident.model_id} ran out of memory at this size"
    if degraded:
        text += ", however it was drawn"
    recovery = list(fault.info.recovery)
    if not allowed and resident.built.rungs:
        again = Recovery(
            action="generate",
            description="let it be drawn with less memory, and more slowly",
            parameters={"model_id": resident.model_id, "allow_degraded": True},
        )
        recovery.insert(0, again)
    return Fault(fault.code, f"{text}; {fault.info.message}", details=fault.info.details, recovery=recovery)
