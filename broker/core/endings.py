"""How a command that a worker has ends: with the worker's reply, or without the worker."""

from __future__ import annotations

import contextlib

from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.intake import Intake
from broker.core.jobs import Job
from broker.core.retries import POISON_DEATHS, may_run_again
from protocol.codec import decode_reply
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import JobUpdate


class Endings:
    """Answers for devices and the catalogue alike."""

    def __init__(self, context: Context, answers: Answers, intake: Intake) -> None:
        self._context = context
        self._answers = answers
        self._intake = intake

    def finish(self, job: Job, update: JobUpdate, body: tuple[bytes, ...]) -> None:
        """The worker replied."""
        if not body:
            fault = Fault(ErrorCode.INTERNAL_ERROR, f"{job.action.name} ended without a reply")
            self._answers.fail(job, fault.info)
            return
        error = None if update.success else self._error_of(body[0], update)
        self._answers.finish(job, body[0], body[1:], success=update.success, error=error)

    def _error_of(self, body: bytes, update: JobUpdate) -> ErrorInfo:
        """The error in a failed reply; it stands in the command's last event, and is read where somebody hears that."""
        error = None
        if self._context.bulletin.hears_jobs:
            with contextlib.suppress(Fault):
                error = decode_reply(body).error
        return error or Fault(update.error_code or ErrorCode.INTERNAL_ERROR, "the worker's reply names no error").info

    def lost(self, job: Job, text: str, *, died: bool) -> None:
        """A command lost its worker: it runs again where that is safe, and its sender is told where it is not."""
        context = self._context
        if context.jobs.live(job.request_id) is not job:
            return
        is_poison = died and context.quarantine.blame(job, context.clock()) >= POISON_DEATHS
        if is_poison:
            self._answers.fail(job, context.quarantine.refusal(job, context.clock()).info)
        elif may_run_again(job) and not context.draining:
            job.worker, job.started, job.step, job.steps, job.eta_ms = None, None, None, None, None
            self._intake.replace(job)
        else:
            self._answers.fail(job, Fault(ErrorCode.WORKER_LOST, text, retry_after_ms=1000).info)
