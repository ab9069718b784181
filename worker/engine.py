"""Executes one command after another on one device: decode, dispatch, and one final reply, whatever happens.

The only place where faults become replies. Knows no sockets: what it has to say goes to `tell` and `Outcome`.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec

from modelfiles.paths import Roots
from protocol.actions import BY_COMMAND
from protocol.checks import unsupported
from protocol.codec import NO_LIMITS, Refused, decode_command
from protocol.enums import Lane, ReplyState, Tier
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import JobUpdate, Message, ModelChanged, Prefetch, Report, WorkerSpec
from protocol.replies import FailedReply, ModelReply, Timing
from protocol.telemetry import MemoryPressure, Telemetry
from ramtier.tier import RamTier
from settings.logs import Logger
from worker.cache import ModelCache
from worker.devices.base import Device
from worker.job import Job, Outcome
from worker.keeper import Keeper
from worker.leaks import LeakMeter
from worker.prefetch import Full, Prefetcher, Watch
from worker.pressure import PressureMeter
from worker.reloads import Reloads
from worker.strain import HostStrain, is_high
from worker.telemetry import Sampler
from worker.validation.digests import DigestCache

T = TypeVar("T")
Tell = Callable[[Message], None]
log = Logger()


class Engine:
    """A device with its cache, its tiers and its gauges; what every action works with."""

    def __init__(
        self,
        spec: WorkerSpec,
        device: Device,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
        *,
        ram: RamTier,
    ) -> None:
        self.spec = spec
        self.device = device
        self.roots = Roots(spec.model_roots)
        self.ram = device.ram = ram
        self.cache = ModelCache(spec.device_id, clock, Reloads(ram))
        self.keeper = Keeper(device, self.cache, spec.reserve_bytes, self._tell_move)
        self.sampler = Sampler(device, self.cache, PressureMeter(clock, spec.reserve_bytes))
        self.leaks = LeakMeter(device)
        self.strain = HostStrain(clock)
        self.digests = DigestCache()
        self.prefetcher = Prefetcher(self._read_ahead)
        self.clock = clock
        self.ready = False
        self.loading = False
        """Whether a model is being brought: its memory is looked at more often then."""
        self.fatal = ""
        """Why this process is of no use any more; it ends then."""
        self._tell = tell

    def start(self) -> None:
        """Make the device able to work. In the device thread."""
        self.device.start()
        self.leaks.start()
        self.ready = True

    def tell(self, message: Message) -> None:
        self._tell(message)

    def _tell_move(self, change: ModelChanged) -> None:
        """A model has come or gone, perhaps in the middle of a command: and what that made of the memory."""
        self.tell(change)
        self.tell(Report(ready=self.ready, telemetry=self.sample()))

    @contextmanager
    def bringing(self) -> Iterator[None]:
        """A model is brought onto the device meanwhile."""
        self.loading = True
        try:
            yield
        finally:
            self.loading = False

    def tell_stage(self, model_id: str, stage: str, bytes_done: int, bytes_total: int) -> None:
        """A load's stage, as its model's event has it."""
        resident = self.cache.get(model_id)
        tier = resident.tier if resident else Tier.DISK
        self.tell(
            ModelChanged(
                model_id=model_id,
                tier=tier,
                from_tier=tier,
                bytes=bytes_total,
                reason="loading",
                stage=stage,
                bytes_done=bytes_done,
                bytes_total=bytes_total,
            )
        )

    def report(self) -> Report:
        """The state now, with every model held."""
        return Report(
            ready=self.ready,
            telemetry=self.sample(),
            models=self.cache.listing(),
            leaked_bytes=self.leaks.leaked_bytes,
        )

    def sample(self) -> Telemetry | None:
        """One sample; None where the device cannot be read."""
        return self._tried("the device cannot be read", self.sampler.sample)

    def run(self, job: Job) -> Outcome:
        """Execute a command. Never raises."""
        try:
            job.check()
            reply = self._dispatch(job)
        except Fault as fault:
            self._note_poison(fault)
            return self._failed(job, fault.info)
        except Exception as error:
            self._note_poison(error)
            return self._failed(job, self._incident(job))
        return Outcome(reply=self._completed(job, reply), attachments=job.frames, facts=job.facts)

    def _note_poison(self, error: Exception) -> None:
        reason = self.device.poisoned_by(error)
        if reason and not self.fatal:
            self.fatal = f"its device is of no use any more: {reason}"

    def _tried(self, trouble: str, call: Callable[[], T]) -> T | None:
        """What is done around commands; where it fails the log says so, and no command that is done is harmed."""
        try:
            return call()
        except Exception as error:
            self._note_poison(error)
            log.exception(trouble)
            return None

    def idle(self) -> bool:
        """What is to be done between commands. Whether anything changed, or may have."""
        expired = self._tried("an expired model could not be let go", self.keeper.expire) is not False
        lost = self._tried("what left the RAM tier could not be forgotten", self.keeper.forget_lost) is not False
        self._tried("memory that is kept could not be given back", self.device.tend)
        relieved = self._tried("the host could not be relieved", self._relieve) is not False
        return expired or lost or relieved

    def _relieve(self) -> bool:
        """Where the host is short of memory: give back what is kept, and let go of one model of the RAM tier."""
        if not is_high(self.strain.level):
            return False
        self.device.trim()
        return self.keeper.thin_out("evicted: the host is short of memory")

    @property
    def strained(self) -> bool:
        """Whether the device or the host is so short of memory that nothing is brought on speculation."""
        return is_high(self.strain.level) or is_high(self.sampler.pressure().level)

    def copy_some(self) -> bool:
        """A step towards copies in the RAM tier, where others have a use for them. Whether there may be more to do."""
        made = self.keeper.copier.made
        more = (
            self.ram.shared
            and not is_high(self.strain.level)
            and self._tried("a model could not be copied", self.keeper.copier.step)
        )
        if self.keeper.copier.made != made:
            self.tell(self.report())
        return bool(more)

    def _pressure(self, job: Job) -> MemoryPressure | None:
        """The pressure that a reply carries; a sensor that cannot be read costs the figure, not the reply."""
        pressure = self._tried("the memory pressure cannot be read", self.sampler.pressure)
        if pressure is None:
            job.not_measured["memory_pressure"] = "it cannot be read now; the worker's log has why"
        return pressure

    def look_for_leaks(self) -> None:
        """Once nothing is held on the device any more. In the device thread."""
        if not self.cache.held(Tier.VRAM):
            self._tried("what the device still holds cannot be measured", self.leaks.measure)

    def update(self, job: Job, outcome: Outcome) -> JobUpdate:
        """The header of a final reply."""
        reply = outcome.reply
        return JobUpdate(
            request_id=job.assign.request_id,
            attempt=job.assign.attempt,
            state=reply.state,
            success=reply.success,
            error_code=reply.error.code if reply.error else None,
            model_id=job.assign.model.model_id if job.assign.model else getattr(reply, "model_id", ""),
            facts=outcome.facts,
        )

    def refused(self, job: Job, code: ErrorCode, text: str) -> Outcome:
        """The final reply of a command that is not executed at all."""
        return self._failed(job, Fault(code, text).info)

    def _dispatch(self, job: Job) -> ModelReply:
        from worker.actions import ACTIONS  # noqa: PLC0415 - actions know the engine

        try:
            decoded = decode_command(job.body, NO_LIMITS)  # the broker has checked it against those in force
        except Refused as refused:
            raise refused_fault(refused.fault) from None
        command = decoded.command
        if BY_COMMAND[type(command)].lane is not job.assign.lane or type(command) not in ACTIONS:
            raise unsupported(job.assign.action, f"no worker does it on the {job.assign.lane.value} lane")
        try:
            return ACTIONS[type(command)](self, job, command)
        finally:
            if job.assign.lane is Lane.DEVICE:
                self.idle()

    def _read_ahead(self, wish: Prefetch, watch: Watch) -> None:
        from worker.loading import read_ahead  # noqa: PLC0415 - loading knows the engine

        if self.strained:
            raise Full
        read_ahead(self, wish, watch)

    def _completed(self, job: Job, reply: ModelReply) -> ModelReply:
        pressure = self._pressure(job)
        return msgspec.structs.replace(
            reply,
            memory_pressure=pressure,
            warnings=[*job.assign.warnings, *job.warnings],
            timing=self._timing(job),
            not_measured={**reply.not_measured, **job.not_measured},
        )

    def _failed(self, job: Job, error: ErrorInfo) -> Outcome:
        cancelled = error.code in (ErrorCode.CANCELLED, ErrorCode.SUPERSEDED)
        reply = FailedReply(
            **common(job),
            success=False,
            state=ReplyState.CANCELLED if cancelled else ReplyState.FAILED,
            message=error.message,
            error=error,
            memory_pressure=self._pressure(job),
            warnings=[*job.assign.warnings, *job.warnings],
            timing=self._timing(job),
        )
        return Outcome(reply=reply, facts=job.facts)

    def _timing(self, job: Job) -> Timing:
        queue_ms = job.assign.queue_ms
        return Timing(queue_ms=queue_ms, total_ms=queue_ms + job.elapsed_ms, **job.phases)

    def _incident(self, job: Job) -> ErrorInfo:
        """An error that nobody foresaw: told by its number, kept in the log."""
        incident_id = secrets.token_hex(8)
        log.exception("incident", incident_id=incident_id, request_id=job.assign.request_id, action=job.assign.action)
        text = f"{job.assign.action} failed unexpectedly; the worker's log has incident {incident_id}"
        return Fault(ErrorCode.INTERNAL_ERROR, text, details={"incident_id": incident_id}).info


def common(job: Job) -> dict[str, Any]:
    """The fields that every reply of a device action takes from its assignment."""
    assign = job.assign
    return {
        "request_id": assign.echo_id,
        "action": assign.action,
        "device_id": assign.device_id,
        "model_id": assign.model.model_id if assign.model else "",
    }


def refused_fault(info: ErrorInfo) -> Fault:
    """The fault that a codec's refusal carries."""
    return Fault(
        info.code,
        info.message,
        retryable=info.retryable,
        retry_after_ms=info.retry_after_ms,
        details=info.details,
        recovery=info.recovery,
    )
