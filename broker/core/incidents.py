"""What becomes of a fault that nobody foresaw: it costs the message or the timer that it came with, and nothing else.

Its sender is told INTERNAL_ERROR with the number under which the log has the rest.
"""

from __future__ import annotations

import contextlib
import traceback

from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.events import ClientMessage, CoreEvent, WorkerMessage
from broker.core.jobs import Waiter
from protocol.codec import NO_LIMITS, Refused, decode_command, encoding_of
from protocol.enums import Encoding, ReplyState
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import JobUpdate, Spelling


class Incidents:
    """The core's barrier. Raises nothing."""

    def __init__(self, context: Context, answers: Answers, dispatch: Dispatch) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch

    def note(self, what: str, error: Exception, event: CoreEvent | None = None) -> None:
        """A fault while the core dealt with something: log it, and answer whoever waits for an answer to it."""
        context = self._context
        incident_id = context.new_id()
        trace = "".join(traceback.format_exception(error))
        context.log("error", "incident", incident_id=incident_id, what=what, error=repr(error), trace=trace)
        text = f"the broker failed unexpectedly; its log has incident {incident_id}"
        fault = Fault(ErrorCode.INTERNAL_ERROR, text, details={"incident_id": incident_id}).info
        with contextlib.suppress(Exception):
            match event:
                case ClientMessage():
                    self._answer(event, fault)
                case WorkerMessage(header=JobUpdate() as update) if update.state is not ReplyState.PROGRESS:
                    self._end(update, fault)

    def _answer(self, message: ClientMessage, fault: ErrorInfo) -> None:
        request_id, spelling = None, Spelling(encoding=Encoding.JSON)
        with contextlib.suppress(Refused):
            spelling = Spelling(encoding=encoding_of(message.payload, NO_LIMITS))
            request_id = decode_command(message.payload, NO_LIMITS).command.request_id
        job = next((job for job in self._context.jobs if job.body and job.body[0] is message.payload), None)
        if job is not None:
            self._answers.fail(job, fault)
            return
        waiter = Waiter(message.client, message.envelope, spelling)
        refused = Refused(fault, spelling.encoding, request_id=request_id)
        self._answers.refuse(waiter, refused, self._context.clock())

    def _end(self, update: JobUpdate, fault: ErrorInfo) -> None:
        """A worker is done with a command, whatever became of its outcome here: it is answered, its device free."""
        job = self._context.jobs.live(update.request_id)
        devices = self._context.fleet.devices.values()
        held = [d.running for d in devices if d.running is not None and d.running.request_id == update.request_id]
        if job is not None and job.attempt == update.attempt:
            self._answers.fail(job, fault)
        for ended in held:
            self._dispatch.release(ended)
