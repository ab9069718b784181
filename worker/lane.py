"""The device thread: owns the device, executes one command at a time, and tends to expiry in between."""

from __future__ import annotations

import gc
import queue
import threading
import time

import msgspec

from protocol.codec import encode_reply
from protocol.enums import ReplyState
from protocol.errors import ErrorCode
from protocol.link import JobUpdate, Message, encode
from protocol.replies import ProgressReply, Timing
from settings.logs import Logger
from worker.engine import Engine, common
from worker.job import Job, Outcome, Progress
from worker.mailbox import Mailbox, Parcel

log = Logger()

MOST_PATIENCE = 600.0
SHARED_PATIENCE = 1.0
"""Where other workers have the same RAM tier, which may take from it what this one holds."""

MOST_FAILURES = 10
BACKOFF_SECONDS = 0.5


class DeviceLane(threading.Thread):
    """Takes jobs, posts parcels. Where it has ended, `engine.fatal` says why."""

    def __init__(self, engine: Engine, mailbox: Mailbox) -> None:
        super().__init__(name="device", daemon=True)
        self._engine = engine
        self._mailbox = mailbox
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._current: Job | None = None
        self._advances = 0
        self._failures = 0
        self._copying = False
        """Whether there may be something to copy."""

    @property
    def progress_count(self) -> int:
        """Grows whenever this thread advances."""
        current = self._current
        return self._advances + (current.advances if current else 0)

    def submit(self, job: Job) -> None:
        job.on_progress = self._progress
        self._jobs.put(job)

    def run(self) -> None:
        """Work until the process ends. Should this ever end first, the process ends with the reason."""
        try:
            self._engine.start()
            gc.collect()
            gc.freeze()
            self.tell(self._engine.report())
            while not self._engine.fatal:
                self._guarded_turn()
        except BaseException as error:
            log.exception("the device's thread ended")
            self._engine.fatal = self._engine.fatal or f"its device's thread ended: {error!r:.200}"
        finally:
            self._mailbox.wake()

    def tell(self, message: Message) -> None:
        self._mailbox.post(Parcel(frames=[encode(message)]))

    def _guarded_turn(self) -> None:
        """A turn; what fails outside of commands is logged and tried again after a while, not for ever."""
        try:
            self._turn()
            self._failures = 0
        except Exception:
            self._failures += 1
            if self._failures > MOST_FAILURES:
                raise
            log.exception("the device's thread failed outside of a command")
            time.sleep(BACKOFF_SECONDS)

    def _turn(self) -> None:
        try:
            job = self._jobs.get(timeout=0 if self._copying else self._patience())
        except queue.Empty:
            self._between()
            return
        self._current = job
        assign = job.assign
        log.info("command begins", request_id=assign.request_id, attempt=assign.attempt, action=assign.action)
        outcome = self._engine.run(job)
        tell_ended(job, outcome)
        self._advances += job.advances + 1
        self._current = None
        if self._engine.fatal and not outcome.reply.success:
            return  # the broker decides what becomes of a command whose worker is lost
        try:
            self._look_around()
        finally:
            self._copying = True
            self._mailbox.post(final_parcel(self._engine, job, outcome))

    def _between(self) -> None:
        """What there is to do where no command waits, a little at a time."""
        if not self._copying and self._engine.idle():
            self._look_around()
        self._copying = self._engine.copy_some()

    def _look_around(self) -> None:
        self._engine.look_for_leaks()
        self.tell(self._engine.report())

    def _patience(self) -> float:
        """Seconds until a model expires, or until it is time to look again: no client's number is waited for whole."""
        expiry = self._engine.cache.next_expiry()
        most = SHARED_PATIENCE if self._engine.ram.shared else MOST_PATIENCE
        return most if expiry is None else min(max(0.0, expiry - self._engine.clock()), most)

    def _progress(self, job: Job, progress: Progress) -> None:
        self._mailbox.post(Parcel(frames=progress_frames(job, progress)))


def tell_ended(job: Job, outcome: Outcome) -> None:
    """The log's line about a command that ended: with what its sender was told, where that was a failure."""
    assign, reply, error = job.assign, outcome.reply, outcome.reply.error
    failed = error is not None and reply.state is not ReplyState.CANCELLED
    (log.warning if failed else log.info)(
        "command ended",
        request_id=assign.request_id,
        attempt=assign.attempt,
        action=assign.action,
        model=assign.model.model_id if assign.model else "",
        state=reply.state.value,
        code=error.code.value if error is not None else None,
        ms=round(job.elapsed_ms, 1),
        text=reply.message,
    )


def final_parcel(engine: Engine, job: Job, outcome: Outcome) -> Parcel:
    """The last word on a command."""
    try:
        body = encode_reply(outcome.reply, job.assign.spelling)
    except Exception:
        log.exception("a reply cannot be written", request_id=job.assign.request_id)
        outcome = engine.refused(job, ErrorCode.INTERNAL_ERROR, "the reply cannot be written; the worker's log has why")
        body = encode_reply(outcome.reply, job.assign.spelling)
    frames = [encode(engine.update(job, outcome)), body, *outcome.attachments]
    return Parcel(frames=frames, final=(job.assign.request_id, job.assign.attempt))


def progress_frames(job: Job, progress: Progress) -> list[bytes]:
    """A progress update, with a body where the client asked for the stream."""
    assign = job.assign
    update = JobUpdate(
        request_id=assign.request_id,
        attempt=assign.attempt,
        state=ReplyState.PROGRESS,
        success=True,
        model_id=assign.model.model_id if assign.model else "",
        step=progress.step,
        steps=progress.steps,
        eta_ms=progress.eta_ms,
    )
    if not assign.stream_progress:
        return [encode(update)]
    reply = ProgressReply(
        **common(job),
        state=ReplyState.PROGRESS,
        message=_message(progress),
        timing=Timing(queue_ms=assign.queue_ms, total_ms=assign.queue_ms + job.elapsed_ms),
        step=progress.step,
        steps=progress.steps,
        eta_ms=progress.eta_ms,
    )
    if progress.stage is not None:
        reply = msgspec.structs.replace(
            reply, stage=progress.stage, bytes_done=progress.bytes_done, bytes_total=progress.bytes_total
        )
    return [encode(update), encode_reply(reply, assign.spelling)]


def _message(progress: Progress) -> str:
    if progress.stage is not None:
        return f"{progress.stage}: {progress.bytes_done} of {progress.bytes_total} bytes"
    return f"step {progress.step} of {progress.steps}"
