"""The device thread: owns the device, executes one command at a time, and tends to expiry in between."""

from __future__ import annotations

import gc
import queue
import threading

import msgspec

from protocol.codec import encode_reply
from protocol.enums import ReplyState
from protocol.link import JobUpdate, Message, encode
from protocol.replies import ProgressReply, Timing
from settings.logs import Logger
from worker.engine import Engine, common
from worker.job import Job, Outcome, Progress
from worker.mailbox import Mailbox, Parcel

log = Logger()


class DeviceLane(threading.Thread):
    """Takes jobs, posts parcels. `failed` is set when the device could not be started."""

    def __init__(self, engine: Engine, mailbox: Mailbox) -> None:
        super().__init__(name="device", daemon=True)
        self.failed = False
        self._engine = engine
        self._mailbox = mailbox
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._current: Job | None = None
        self._advances = 0

    @property
    def progress_count(self) -> int:
        """Grows whenever this thread advances."""
        current = self._current
        return self._advances + (current.advances if current else 0)

    def submit(self, job: Job) -> None:
        job.on_progress = self._progress
        self._jobs.put(job)

    def run(self) -> None:
        try:
            self._engine.start()
            gc.collect()
            gc.freeze()
        except BaseException:
            log.exception("the device could not be started")
            self.failed = True
            self._mailbox.wake()
            return
        self.tell(self._engine.report())
        while True:
            self._turn()

    def tell(self, message: Message) -> None:
        self._mailbox.post(Parcel(frames=[encode(message)]))

    def _turn(self) -> None:
        try:
            job = self._jobs.get(timeout=self._patience())
        except queue.Empty:
            if self._engine.idle():
                self._engine.look_for_leaks()
                self.tell(self._engine.report())
            return
        self._current = job
        assign = job.assign
        log.info("command begins", request_id=assign.request_id, attempt=assign.attempt, action=assign.action)
        outcome = self._engine.run(job)
        self._advances += job.advances + 1
        self._current = None
        self._engine.look_for_leaks()
        self.tell(self._engine.report())
        self._mailbox.post(final_parcel(self._engine, job, outcome))

    def _patience(self) -> float | None:
        """Seconds until a model expires; None where none will."""
        expiry = self._engine.cache.next_expiry()
        return None if expiry is None else max(0.0, expiry - self._engine.clock())

    def _progress(self, job: Job, progress: Progress) -> None:
        self._mailbox.post(Parcel(frames=progress_frames(job, progress)))


def final_parcel(engine: Engine, job: Job, outcome: Outcome) -> Parcel:
    """The last word on a command."""
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
