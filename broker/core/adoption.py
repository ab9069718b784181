"""What a worker still holds from a former epoch becomes this broker's own work, and is never given out twice.

A broker that was killed forgets what ran. Its successor is told by each surviving worker; until the last of them has
spoken, or is gone, nothing is placed. One that stays silent is ended.
"""

from __future__ import annotations

from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.events import SendWorker
from broker.core.finals import Accepted, Final
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol.actions import ACTIONS, BY_COMMAND
from protocol.codec import NO_LIMITS, Refused, decode_command
from protocol.enums import JobState, Lane
from protocol.errors import ErrorCode, Fault
from protocol.link import CancelJob, Holding


class Adoption:
    """Turns holdings into jobs. Raises nothing."""

    def __init__(self, context: Context, answers: Answers, dispatch: Dispatch) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch
        self._expected: list[Job] = []

    def expect(self, begun: Accepted) -> None:
        """A command was with a worker when the last broker died: it is that worker's, or lost."""
        context = self._context
        try:
            command = decode_command(begun.body[0], NO_LIMITS).command
        except Refused:
            context.log("error", "a command that had begun cannot be read again", request_id=begun.request_id)
            context.store.keep(Final.damaged(begun.request_id, context.clock()))
            return
        action = BY_COMMAND[type(command)]
        arrived = context.clock() - begun.age_seconds
        job = Job(begun.request_id, command, action, begun.client, begun.body, begun.spelling, arrived)
        job.known_digests = begun.digests
        job.state = JobState.RUNNING
        context.jobs.add(job)
        self._expected.append(job)

    def settle(self) -> None:
        """Every worker that outlived the last broker has spoken: what none of them holds was lost."""
        for job in self._expected:
            if job.worker is None:
                text = f"{job.action.name} had begun when the broker and its worker were lost: it is not run again"
                self._answers.fail(job, Fault(ErrorCode.WORKER_LOST, text, retry_after_ms=1000).info)
        self._expected = []

    def adopt(self, held: Holding, worker: bytes, device: Device | None) -> None:
        """Take over one holding of a worker that registered."""
        context = self._context
        job = self._known_or_new(held, worker)
        if job is None:
            return
        if context.jobs.live(job.request_id) is not job and not held.ended:
            stale = CancelJob(request_id=job.request_id, attempt=job.attempt, reason="it was answered already")
            context.emit(SendWorker(worker, stale))
        job.attempt, job.worker, job.spelling = held.assign.attempt, worker, held.assign.spelling
        job.model, job.device_id = held.assign.model, held.assign.device_id
        context.jobs.start(job)
        if device is None:
            return
        if held.ended or held.assign.lane is Lane.CONTROL:
            device.control[job.request_id] = job
        else:
            device.running = job
            context.fleet.take(job, device)
            job.started = context.wall()

    def _known_or_new(self, held: Holding, worker: bytes) -> Job | None:
        """The job of a holding: one that was sent again, one made anew, or one that only occupies its device."""
        context, assign = self._context, held.assign
        action = ACTIONS.get(assign.action)
        known = context.jobs.live(assign.request_id)
        if action is None or not held.body or (known is not None and known.worker is not None):
            return None
        answered = context.store.find(assign.request_id) is not None
        if answered and held.ended:
            return None
        try:
            command = decode_command(held.body[0], NO_LIMITS).command
        except Refused:
            context.log("warning", "a worker holds what nobody understands", request_id=assign.request_id)
            return None
        body = tuple(held.body)
        if known is not None and known.same_meaning(command, body):
            self._dispatch.withdraw(known)
            return known
        if known is not None:
            text = f"request_id {known.wire_id} is in use for another command"
            self._answers.fail(known, Fault(ErrorCode.DUPLICATE_REQUEST, text).info)
        job = Job(assign.request_id, command, action, worker, body, assign.spelling, context.clock(), assign.warnings)
        if " " in job.request_id:
            job.on_final = _nobody_asks
        if not answered:
            context.jobs.add(job)
        return job


def _nobody_asks(job: Job, now: float) -> None:
    """The end of a command of the former broker's own."""
