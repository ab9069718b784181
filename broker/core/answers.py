"""The one place where a command is answered: every job ends here, exactly once, for everyone who waits for it."""

from __future__ import annotations

import msgspec

from broker.core.coalescing import is_personal
from broker.core.context import Context
from broker.core.events import SendClient
from broker.core.failures import Lines
from broker.core.finals import Accepted, Final
from broker.core.jobs import Job, Waiter, respell
from protocol.codec import Refused, decode_reply, encode_reply
from protocol.enums import ReplyState
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import JobUpdate
from protocol.replies import AcceptedReply, FailedReply, Reply, Timing
from protocol.telemetry import MemoryPressure


class Answers:
    """Writes replies and ends jobs."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._failures = Lines(context)

    def refuse(self, waiter: Waiter, refused: Refused, arrived: float) -> None:
        """Answer a payload that is no valid command."""
        reply = FailedReply(
            request_id=refused.request_id,
            action=refused.action,
            success=False,
            state=ReplyState.FAILED,
            message=refused.fault.message,
            warnings=refused.warnings,
            error=refused.fault,
            timing=self._timing(arrived),
        )
        self._send(waiter, encode_reply(reply, waiter.spelling), ())

    def reply(self, job: Job, reply: Reply, attachments: tuple[bytes, ...] = ()) -> None:
        """End a job with a reply of the broker's own; warnings and timing are filled in here."""
        reply = msgspec.structs.replace(
            reply,
            request_id=job.wire_id,
            warnings=[*job.warnings, *reply.warnings],
            timing=self._timing(job.arrived),
        )
        self.finish(job, encode_reply(reply, job.spelling), attachments, success=reply.success, error=reply.error)

    def fail(self, job: Job, error: ErrorInfo) -> None:
        """End a job that could not be done."""
        cancelled = error.code is ErrorCode.CANCELLED
        if job.action.stored and self._context.jobs.live(job.request_id) is job:
            self._failures.tell(job, error)
        self.reply(
            job,
            FailedReply(
                request_id=job.wire_id,
                action=job.action.name,
                success=False,
                state=ReplyState.CANCELLED if cancelled else ReplyState.FAILED,
                message=error.message,
                error=error,
                device_id=job.device_id,
                model_id=job.model_id,
                memory_pressure=self._pressure(job.device_id),
            ),
        )

    def finish(
        self,
        job: Job,
        body: bytes,
        attachments: tuple[bytes, ...],
        *,
        success: bool,
        error: ErrorInfo | None = None,
    ) -> None:
        """End a job with a reply as it was written, forwarded untouched where its spelling is the waiter's.

        The id of a command that found the queues full stays free: the same command may be sent again.
        """
        context = self._context
        if context.jobs.live(job.request_id) is not job:
            return
        context.census.ended(job.action.name, error, success=success, seconds=context.clock() - job.arrived)
        context.timers.cancel(job.timer)
        context.jobs.finish(job)
        context.catalogue.unanswered.discard(job.request_id)
        context.undecided.pop(job.request_id, None)
        if job.sender is not None and job.action.stored:
            context.quotas.end(job.sender, context.clock())
        if job.on_final is not None:
            job.final = self._final(job, body, attachments, success=success)
            job.on_final(job, job.final.at)
            context.leaderless += context.coalescing.ended(job)
            return
        for waiter in job.waiters:
            self._send(waiter, respell(body, job.spelling, waiter.spelling), attachments)
        never_taken = error is not None and error.code is ErrorCode.QUEUE_FULL and bool(job.waiters)
        if job.action.stored and not never_taken:
            context.store.keep(self._final(job, body, attachments, success=success))
            context.bulletin.job(job, success=success, error=error)
        if job.leads:
            self._pass_on(job, body, success=success, error=error)

    def _pass_on(self, job: Job, body: bytes, *, success: bool, error: ErrorInfo | None) -> None:
        """Give a load's outcome to those who followed it, or let them go on without it."""
        context = self._context
        followers = context.coalescing.ended(job)
        if not followers:
            return
        if is_personal(error):
            context.leaderless += followers
            return
        try:
            told = decode_reply(body)
        except Fault:
            told = None
        for follower in followers:
            if told is None:
                fault = Fault(ErrorCode.INTERNAL_ERROR, f"{job.action.name} ended with a reply that cannot be read")
                self.fail(follower, fault.info)
                continue
            reply = told
            timing = msgspec.structs.replace(reply.timing, total_ms=self._timing(follower.arrived).total_ms)
            warnings = [*follower.warnings, *reply.warnings[len(job.warnings) :]]
            reply = msgspec.structs.replace(reply, request_id=follower.wire_id, timing=timing, warnings=warnings)
            self.finish(follower, encode_reply(reply, follower.spelling), (), success=success, error=error)

    def _final(self, job: Job, body: bytes, attachments: tuple[bytes, ...], *, success: bool) -> Final:
        return Final(
            job.request_id,
            job.action.name,
            job.body[0],
            job.digests(),
            job.spelling,
            body,
            attachments,
            self._context.clock(),
            success,
        )

    def repeat(self, final: Final, waiter: Waiter) -> None:
        """Give a final reply again to one who asks again."""
        self._send(waiter, respell(final.body, final.spelling, waiter.spelling), final.attachments)

    def accepted(self, job: Job) -> None:
        """The one reply of a command that is not waited for; its outcome is for `get_result` and events."""
        if not job.began:
            self._context.store.accept(Accepted(job.request_id, job.client, job.body, job.spelling, job.digests()))
        for waiter in job.waiters:
            self.accept(job, waiter)
        job.waiters = []

    def accept(self, job: Job, waiter: Waiter) -> None:
        """Tell one who does not wait that the command is under way."""
        reply = AcceptedReply(
            request_id=job.wire_id,
            action=job.action.name,
            state=ReplyState.ACCEPTED,
            message="accepted",
            warnings=job.warnings,
            timing=self._timing(job.arrived),
            device_id=job.device_id,
            model_id=job.model_id,
        )
        self._send(waiter, encode_reply(reply, waiter.spelling), ())

    def progress(self, job: Job, update: JobUpdate, body: tuple[bytes, ...]) -> None:
        """Note how far a job is, and pass a progress reply on."""
        job.step, job.steps, job.eta_ms = update.step, update.steps, update.eta_ms
        if job.action.stored and job.on_final is None:
            self._context.bulletin.job(job)
        if not body:
            return
        for waiter in (waiter for waiter in job.waiters if waiter.wants_progress):
            self._send(waiter, respell(body[0], job.spelling, waiter.spelling), body[1:])
        for follower in job.followers:
            self._follow_progress(follower, body[0])

    def _follow_progress(self, follower: Job, body: bytes) -> None:
        """Tell those who wait for a load that follows another how far that one is, under the follower's own id."""
        wanting = [waiter for waiter in follower.waiters if waiter.wants_progress]
        if not wanting:
            return
        try:
            reply = decode_reply(body)
        except Fault:
            return
        timing = msgspec.structs.replace(reply.timing, total_ms=self._timing(follower.arrived).total_ms)
        reply = msgspec.structs.replace(reply, request_id=follower.wire_id, timing=timing)
        for waiter in wanting:
            self._send(waiter, encode_reply(reply, waiter.spelling), ())

    def _timing(self, arrived: float) -> Timing:
        return Timing(total_ms=(self._context.clock() - arrived) * 1000.0)

    def _pressure(self, device_id: str) -> MemoryPressure | None:
        device = self._context.fleet.devices.get(device_id)
        return device.telemetry.memory_pressure if device is not None and device.telemetry is not None else None

    def _send(self, waiter: Waiter, body: bytes, attachments: tuple[bytes, ...]) -> None:
        self._context.emit(SendClient(waiter.client, (*waiter.envelope, body, *attachments)))
