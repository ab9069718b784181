"""Bringing a model onto the device: as it is, from the RAM tier, or from disk; admitted before anything is allocated.

Decides what a load starts from and what it replaces. How a model is built is its device's affair.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from modelfiles.complete import check_complete
from modelfiles.contents import Content
from modelfiles.model import ModelFile, inspect
from modelfiles.modes import check_channels, check_parts
from modelfiles.paths import named
from protocol.enums import LoadingStrategy, LoadPriority, LoadSource, Tier
from protocol.errors import ErrorCode, Fault, Recovery
from protocol.link import ModelRef, Prefetch
from protocol.records import ModelLoadConfiguration, Record
from settings.logs import Logger
from worker import host, pagecache, precision
from worker.devices.base import Build, BuiltModel, LostError, Streaming
from worker.engine import Engine
from worker.job import Job
from worker.keeper import check_share
from worker.options import Resolved, outcomes, resolve
from worker.pace import AHEAD, Pace, pace_of
from worker.prefetch import Full, Watch
from worker.resident import Resident

AHEAD_SHARE = 3
"""A model is read ahead where the host has so many times its bytes: it is in memory twice while it is."""

log = Logger()


class Wish(Record, frozen=True, kw_only=True):
    """How a model is wanted; `configuration` None is content with the model as it is."""

    configuration: ModelLoadConfiguration | None = None
    config_path: str = ""
    force: bool = False
    host_holds_file: bool = False
    pin: bool = False
    priority: LoadPriority = LoadPriority.Normal
    strategy: LoadingStrategy = LoadingStrategy.DEFAULT


class Brought(msgspec.Struct, frozen=True, kw_only=True):
    """A model on the device, or lazily in the RAM tier alone: where it came from, the device bytes that this took,
    and the page-cache share found.
    """

    resident: Resident
    source: LoadSource
    added_bytes: int
    load_ms: float
    page_cache_ratio: float | None = None
    page_cache_reason: str = "nothing was read from disk"
    put_off: str = ""
    """Why a lazy load is on the device all the same."""


def assigned_model(job: Job, model_id: str) -> ModelRef:
    """The model that the broker resolved. Raises Fault MODEL_NOT_FOUND where the catalogue knows none."""
    if job.assign.model is None:
        raise Fault(
            ErrorCode.MODEL_NOT_FOUND,
            f"model_id {model_id!r} is not in the catalogue",
            recovery=[Recovery(action="list_models", description="see the models that are known")],
        )
    return job.assign.model


def bring(engine: Engine, job: Job, ref: ModelRef, wish: Wish) -> Brought:
    """The model on the device; a lazy one is content with the RAM tier. Raises Fault; a refusal evicts nobody and
    leaves what was there."""
    began = time.perf_counter()
    resident = engine.cache.get(ref.model_id)
    changed = changed_file(resident) if resident is not None else ""
    if changed:
        job.warnings.append(f"{ref.model_id} is loaded anew: {changed} has changed since it was loaded")
    with engine.bringing():
        if resident is None or changed or not _serves(engine, resident, ref, wish):
            brought = _from_files(engine, job, ref, wish, resident)
        elif resident.tier is Tier.VRAM:
            brought = _brought(resident, LoadSource.VRAM, 0)
        elif wish.strategy is LoadingStrategy.LAZY and not _at_once(wish, resident):
            brought = _brought(resident, LoadSource.RAM, 0)
        else:
            brought = _from_ram(engine, job, ref, wish, resident)
    load_ms = (time.perf_counter() - began) * 1000
    resident = brought.resident
    _account(engine, resident, wish)
    if resident.tier is not Tier.VRAM:
        resident.priority = wish.priority
    elif not resident.load_ms or brought.source is not LoadSource.VRAM:
        resident.load_ms.append(load_ms)
        engine.cache.reloads.note(resident, brought.source, load_ms)
        resident.priority = wish.priority
    resident.touch(engine.clock())
    return msgspec.structs.replace(brought, load_ms=load_ms)


def _at_once(wish: Wish, held: Resident | None) -> str:
    """Why a load, however lazy, brings its model onto the device; "" where its first use may do that."""
    if wish.pin or (held is not None and held.pinned):
        return "a pin wants it on the device at once"
    if wish.host_holds_file:
        return "the host holds the file, so that the RAM tier keeps no copy"
    return ""


def changed_file(resident: Resident) -> str:
    """The name of a file whose content is another than what was loaded; "" where none is.

    A model whose files are gone goes on as it is.
    """
    if not Path(resident.file.path).exists():
        return ""
    looked: list[Content] = []
    for content in resident.built.contents:
        try:
            now = content.now()
        except (OSError, Fault):
            return Path(content.fingerprint.path).name
        if now.digest != content.digest:
            return Path(content.fingerprint.path).name
        looked.append(now)
    resident.built.contents = looked
    return ""


def _account(engine: Engine, resident: Resident, wish: Wish) -> None:
    """Answer each flag of the configuration that is asked for now, or of the one that the model was built under."""
    if wish.configuration is None and resident.options:
        return
    asked = wish.configuration or resident.configuration
    resolved = resolve(asked, resident.file, engine.device, resident.model_id, resident.resolved.config_path)
    resident.resolved, resident.configuration, resident.original = resolved, asked, None
    resident.rungs.clear()
    total = engine.keeper.room().total
    resident.options = outcomes(asked, resolved, resident.file, resident.built, total)


def _brought(resident: Resident, source: LoadSource, added_bytes: int) -> Brought:
    return Brought(resident=resident, source=source, added_bytes=added_bytes, load_ms=0.0)


def _serves(engine: Engine, resident: Resident, ref: ModelRef, wish: Wish) -> bool:
    """Whether a model that is held is what is wanted."""
    if wish.force or resident.file.path != str(named(Path(ref.path), Path(ref.path).resolve())):
        return False
    if wish.configuration is None:
        is_same = not wish.config_path or wish.config_path == resident.resolved.config_path
        return is_same and not resident.is_to_be_restored
    wanted = resolve(wish.configuration, resident.file, engine.device, ref.model_id, wish.config_path)
    return wanted.builds_as(resident.resolved)


def _from_ram(engine: Engine, job: Job, ref: ModelRef, wish: Wish, resident: Resident) -> Brought:
    began = time.perf_counter()
    engine.tell_stage(resident.model_id, "promote", 0, resident.bytes)
    try:
        added = _promote(engine, job, resident)
    except LostError:
        # Another worker's models needed the room since the last look.
        return _from_files(engine, job, ref, wish, resident)
    resident.loaded_at = resident.last_used
    job.phases["promote_ms"] = (time.perf_counter() - began) * 1000
    return _brought(resident, LoadSource.RAM, added)


def _from_files(engine: Engine, job: Job, ref: ModelRef, wish: Wish, replaced: Resident | None) -> Brought:
    configuration, config_path = wish.configuration, wish.config_path
    if configuration is None and replaced is not None:
        configuration, config_path = replaced.lasting, config_path or replaced.resolved.config_path
    configuration = configuration or ModelLoadConfiguration()
    lost = replaced.built.replaced if replaced is not None else []
    if lost:
        job.warnings.append(f"{ref.model_id} is built anew, without what was loaded into it: {', '.join(lost)}")
    file, resolved = _inspected(engine, ref, configuration, config_path)
    estimated = precision.estimate_bytes(file, resolved.precision)
    needed = estimated if resolved.streaming is Streaming.NONE else 0
    check_share(needed, resolved.memory_fraction, engine.keeper.room(), engine.cache)
    lazy = wish.strategy is LoadingStrategy.LAZY
    at_once = _at_once(wish, replaced) if lazy else ""
    if not lazy or at_once or needed > engine.keeper.room().total:
        _admit(engine, ref.model_id, file, resolved, needed=needed, replaced=replaced)
    cached = None if file.profile is not None else pagecache.ratio(file.weight_files)
    held = wish.host_holds_file
    pace = pace_of(wish.strategy, estimated, cached=cached, host_holds_file=held)
    with engine.prefetcher.held_off(ref.model_id, job.check):
        built = _build(engine, job, ref, file, resolved, pace=pace, anew=wish.force)
    try:
        job.check()
        resident = Resident(ref.model_id, file, built, resolved, engine.clock())
        running = built.bytes if built.streamed_bytes is None else built.streamed_bytes
        check_share(running, resolved.memory_fraction, engine.keeper.room(), engine.cache)
        resident.configuration = configuration
        resident.keeps_ram_copy = not held
        if replaced is not None:
            resident.keep_alive_seconds = replaced.keep_alive_seconds
        shelved = lazy and not at_once and _shelve(engine, replaced, resident)
        added = 0 if shelved else _place(engine, job, ref, file, resolved, replaced=replaced, coming=resident)
    except BaseException:
        built.release()
        raise
    brought = _brought(resident, built.source, added)
    if lazy and not shelved:
        brought = msgspec.structs.replace(brought, put_off=at_once or "the RAM tier has no room for it")
    if built.source is not LoadSource.DISK:
        return brought
    reason = "a virtual device reads no weights" if file.profile is not None else "this system has no mincore"
    return msgspec.structs.replace(brought, page_cache_ratio=cached, page_cache_reason=reason)


def _place(
    engine: Engine,
    job: Job,
    ref: ModelRef,
    file: ModelFile,
    resolved: Resolved,
    *,
    replaced: Resident | None,
    coming: Resident,
) -> int:
    """Put a model that was just built onto the device; the bytes that this took. Raises Fault."""
    needed = engine.cache.added_bytes(coming)
    if (coming.built.streamed_bytes or 0) > engine.keeper.room().total:
        needed = coming.built.streamed_bytes or 0
    _admit(engine, ref.model_id, file, resolved, needed=needed, replaced=replaced, coming=coming)
    began = time.perf_counter()
    added = _promote(engine, job, coming) if replaced is None else _replace(engine, job, replaced, coming)
    coming.copied = coming.keeps_ram_copy and coming.built.keep_copy()
    job.phases["promote_ms"] = (time.perf_counter() - began) * 1000
    return added


def _shelve(engine: Engine, replaced: Resident | None, coming: Resident) -> bool:
    """Leave a model that was just built in the RAM tier, in place of the one that it replaces. Whether it is there."""
    with engine.cache.leaving(replaced) as may_leave, engine.cache.held_still(coming):
        shelved = may_leave and engine.keeper.shelve(coming)
    if shelved and replaced is not None:
        coming.runs = replaced.runs
        engine.keeper.discard(replaced)
    return shelved


def read_ahead(engine: Engine, wish: Prefetch, watch: Watch) -> None:
    """What a load of this model would have to read, into the RAM tier. Raises Fault, Full, Stopped."""
    ref = wish.model
    if ref is None:
        return
    configuration = wish.configuration or ModelLoadConfiguration()
    began = time.perf_counter()
    file, resolved = _inspected(engine, ref, configuration, wish.config_path)
    estimated = precision.estimate_bytes(file, resolved.precision)
    available = host.available_bytes()
    if available is not None and available < AHEAD_SHARE * estimated:
        raise Full
    build = _plan(ref, file, resolved, pace=AHEAD)
    size = engine.device.prefetch(build, watch)
    if size:
        log.info(
            "a model is read ahead", model_id=ref.model_id, bytes=size, ms=round((time.perf_counter() - began) * 1000)
        )


def _inspected(
    engine: Engine, ref: ModelRef, configuration: ModelLoadConfiguration, config_path: str
) -> tuple[ModelFile, Resolved]:
    """The model's files, checked, and what the configuration asks of them. Raises Fault."""
    file = inspect(ref.path, engine.roots)
    precision.refuse_packed(file)
    check_channels(file)
    check_parts(file)
    resolved = resolve(configuration, file, engine.device, ref.model_id, config_path)
    check_complete(file, configured=bool(resolved.config_path or ref.config_path or file.config_path))
    return file, resolved


def _plan(ref: ModelRef, file: ModelFile, resolved: Resolved, *, pace: Pace, anew: bool = False) -> Build:
    config_path = resolved.config_path or ref.config_path
    return Build(
        file=file,
        precision=resolved.precision,
        compute=resolved.compute,
        streaming=resolved.streaming,
        config_path=config_path,
        pace=pace,
        anew=anew,
    )


def _build(
    engine: Engine, job: Job, ref: ModelRef, file: ModelFile, resolved: Resolved, *, pace: Pace, anew: bool
) -> BuiltModel:
    """The model in host memory: of exactly the files that were checked."""
    total = precision.estimate_bytes(file, resolved.precision)

    def tell(stage: str, bytes_done: int) -> None:
        engine.tell_stage(ref.model_id, stage, bytes_done, total)
        job.stage(stage, bytes_done, total)

    return engine.device.build(_plan(ref, file, resolved, pace=pace, anew=anew), job, tell)


def _replace(engine: Engine, job: Job, old: Resident, new: Resident) -> int:
    """Place `new` where `old` was, and answer the bytes that this took.

    The old one steps aside where both do not fit; it is there again, pin and all, when the new one cannot be placed.
    """
    steps_aside = old.tier is Tier.VRAM and engine.keeper.room().free < engine.cache.added_bytes(new)
    with engine.cache.held_still(old):
        if steps_aside:
            engine.keeper.step_aside(old)
        try:
            new.runs = old.runs
            added = _promote(engine, job, new)
        except BaseException:
            if steps_aside:
                _restore(engine, old)
            raise
    engine.keeper.discard(old)
    return added


def _restore(engine: Engine, old: Resident) -> None:
    """Back onto the device; where even that fails, it leaves for the RAM tier, if that has room."""
    try:
        with engine.keeper.claimed(old):
            engine.keeper.promote(old, None, "restored")
    except (Fault, engine.device.out_of_memory):
        log.exception("a model that was to be replaced has to leave", model_id=old.model_id)
        engine.keeper.leave(old, "evicted: the load that was to replace it failed")


def _admit(
    engine: Engine,
    model_id: str,
    file: ModelFile,
    resolved: Resolved,
    *,
    needed: int,
    replaced: Resident | None,
    coming: Resident | None = None,
) -> None:
    """Raise Fault INSUFFICIENT_MEMORY with what would help; `coming` is the model once it is built."""
    try:
        engine.keeper.admit(needed, replaced, coming)
    except Fault as fault:
        own, total = resolved.precision, engine.keeper.room().total
        smaller = precision.smaller(file, own, engine.device.precisions, total, (model_id, engine.spec.device_id))
        raise Fault(
            fault.code,
            f"{model_id}: {fault.info.message}",
            retryable=fault.info.retryable,
            details=fault.info.details,
            recovery=smaller + fault.info.recovery,
        ) from None


def _promote(engine: Engine, job: Job, resident: Resident) -> int:
    """Place the model, and answer the bytes that this took.

    Where the device refuses in spite of the admission, clear it of idle models and try once more.
    Raises Fault INSUFFICIENT_MEMORY, LostError.
    """
    with engine.keeper.claimed(resident):
        for last in (False, True):
            added = None
            # Recovered from outside: inside an except block the traceback would keep tensors alive.
            with suppress(engine.device.out_of_memory):
                added = engine.keeper.promote(resident, job, "loaded")
            if added is not None:
                return added
            engine.sampler.note_oom()
            engine.device.reclaim()
            if last or not engine.keeper.empty(resident.model_id):
                break
    raise engine.cache.insufficient(resident.bytes, engine.keeper.room())
