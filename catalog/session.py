"""The catalogue's end of the worker link: one socket, one thread, one long command at a time.

Decides what is said to the broker and when. A long command runs in steps between messages, so that signs of life and
other commands never wait for it. What an outage leaves unsent waits in order in `_outbox`.
"""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections import deque
from pathlib import Path

import msgspec
import zmq

from catalog.catalogue import Catalogue, Scanning
from catalog.marking import Marking
from catalog.mending import opened_store
from catalog.sidecar import Sidecars
from catalog.work import Asked, Steps, Work
from catalog.written import NotWritten
from modelfiles.paths import Roots
from protocol import commands as c
from protocol import link
from protocol import replies as r
from protocol.codec import NO_LIMITS, Refused, decode_command, encode_reply
from protocol.enums import ReplyState
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.records import Record
from settings.keys import read_key
from settings.logs import Logger

log = Logger()

STEP_SECONDS = 0.02
DRAIN_SECONDS = 10.0
MESSAGES_PER_TURN = 64
PIECE = 500
"""Models told of in one message: the broker takes it in within a millisecond or two."""
MOST_REFUSED = 4000
"""Refused files that the broker knows by their ids."""


class Job(Record, frozen=True, kw_only=True):
    """A command on its way: `started` by the monotonic clock."""

    assign: link.Assign
    body: list[bytes]
    command: c.Command
    warnings: list[str]
    started: float


class Running(Record, frozen=True, kw_only=True):
    """The work in progress; `job` None: the scan at the start."""

    work: Work
    steps: Steps
    job: Job | None


class Session:
    """The one owner of the socket. `run` returns when the catalogue was told to stop and is done."""

    def __init__(self, spec: link.CatalogSpec) -> None:
        self._spec = spec
        self._worker_id = f"{link.CATALOG_ID}/{spec.generation}/{secrets.token_hex(4)}"
        roots = Roots(spec.model_roots)
        sidecars = Sidecars(Path(spec.data) / "sidecars", roots)
        self._catalogue = Catalogue(opened_store(Path(spec.data)), roots, sidecars)
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, self._worker_id.encode())
        self._socket.setsockopt(zmq.LINGER, 500)
        if spec.key_file:
            read_key(Path(spec.key_file)).apply(self._socket)
        self._outbox: deque[list[bytes]] = deque()
        self._waiting: deque[Job] = deque()
        self._running: Running | None = None
        self._epoch = ""
        self._is_ready = False
        self._progress = 0
        self._next_beat = 0.0
        self._stop_at: float | None = None

    def run(self) -> None:
        """Serve until told to stop."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._stop_within(DRAIN_SECONDS))
        self._socket.connect(self._spec.link)
        self._register()
        self._begin(self._catalogue.start_scan(), None)
        while not self._is_done():
            self._turn()
        if self._running is not None:
            self._give_up(ErrorCode.DRAINING, "the catalogue stops")
        self._flush()
        self._catalogue.commit()
        self._socket.close()

    def _turn(self) -> None:
        now = time.monotonic()
        if now >= self._next_beat:
            self._next_beat = now + self._spec.heartbeat_ms / 1000
            self._catalogue.commit()
            if not self._outbox:
                self._send(link.Beat(progress_count=self._progress))
        events = zmq.POLLIN | (zmq.POLLOUT if self._outbox else 0)
        if self._socket.poll(self._wait_ms(now), events) & zmq.POLLIN:
            self._receive()
        self._flush()
        self._work()

    def _wait_ms(self, now: float) -> int:
        return 0 if self._running is not None else max(0, round((self._next_beat - now) * 1000))

    def _is_done(self) -> bool:
        if self._stop_at is None:
            return False
        is_idle = (self._running is None or isinstance(self._running.work, Marking)) and not self._waiting
        return is_idle or time.monotonic() >= self._stop_at

    def _stop_within(self, seconds: float) -> None:
        if self._stop_at is None:
            self._stop_at = time.monotonic() + seconds

    # what comes in

    def _receive(self) -> None:
        for _ in range(MESSAGES_PER_TURN):
            try:
                header, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                message = link.decode_to_worker(header)
            except (msgspec.DecodeError, ValueError) as error:
                log.error("message not understood", error=str(error))
                continue
            self._handle(message, frames)

    def _handle(self, message: link.ToWorker, frames: list[bytes]) -> None:
        self._progress += 1
        match message:
            case link.Welcome():
                self._welcome(message.epoch)
            case link.Devices():
                self._catalogue.see_devices(message.devices)
            case link.UsageFact():
                self._catalogue.record(message)
            case link.Assign():
                self._assigned(message, frames)
            case link.CancelJob():
                self._cancel(message)
            case link.Stop():
                self._stop_within(message.drain_seconds)

    def _welcome(self, epoch: str) -> None:
        """A broker of a new epoch knows nothing, even if an older one swallowed the first registration: tell it all."""
        if epoch == self._epoch:
            return
        self._epoch = epoch
        self._register()
        if self._is_ready:
            self._tell_all()

    def _assigned(self, assign: link.Assign, frames: list[bytes]) -> None:
        started = time.monotonic()
        try:
            decoded = decode_command(frames[0] if frames else b"", NO_LIMITS)
        except Refused as refused:
            self._fail(assign, refused.fault, started)
            return
        # The broker decoded the same bytes: its warnings are ours.
        job = Job(assign=assign, body=frames, command=decoded.command, warnings=assign.warnings, started=started)
        if self._catalogue.is_long(job.command):
            self._put_off_spare_work()
        if not self._is_ready or (self._catalogue.is_long(job.command) and self._running is not None):
            self._waiting.append(job)
        else:
            self._start(job)

    def _cancel(self, message: link.CancelJob) -> None:
        wanted = (message.request_id, message.attempt)
        running = self._running
        if running is not None and running.job is not None and _key(running.job) == wanted:
            self._give_up(message.code, message.reason)
        for job in [job for job in self._waiting if _key(job) == wanted]:
            self._waiting.remove(job)
            self._fail(job.assign, Fault(message.code, message.reason).info, job.started)

    # work

    def _work(self) -> None:
        """One slice of the work in progress, or the next command that waited for it."""
        if self._running is None:
            if self._waiting and self._is_ready:
                self._start(self._waiting.popleft())
            return
        until = time.monotonic() + STEP_SECONDS
        try:
            while time.monotonic() < until and not self._socket.poll(0):
                self._progress += 1
                next(self._running.steps)
        except StopIteration:
            self._done(self._running)
        except Exception as error:
            self._failed(self._running, error)

    def _start(self, job: Job) -> None:
        try:
            work = self._catalogue.begin(job.command)
            if work is not None:
                self._begin(work, job)
                return
            reply = self._catalogue.answer(job.command, job.assign.echo_id)
        except NotWritten as fault:
            self._fail(job.assign, fault.info, job.started, fault.results)
        except Fault as fault:
            self._fail(job.assign, fault.info, job.started)
        except Exception as error:
            self._fail(job.assign, incident(error, job.assign), job.started)
        else:
            self._reply(job, reply)

    def _begin(self, work: Work, job: Job | None) -> None:
        self._running = Running(work=work, steps=work.steps(), job=job)

    def _begin_spare_work(self, done: Work) -> None:
        """After what may have brought models: whoever asks for anything long ends it."""
        spare = None if isinstance(done, Marking) or self._waiting else self._catalogue.spare_work()
        if spare is not None:
            self._begin(spare, None)

    def _put_off_spare_work(self) -> None:
        if self._running is not None and isinstance(self._running.work, Marking):
            self._give_up(ErrorCode.CANCELLED, "something else is asked for")

    def _done(self, done: Running) -> None:
        self._running = None
        done.work.finish()
        self._begin_spare_work(done.work)
        if done.job is not None and isinstance(done.work, Asked):
            self._reply(done.job, done.work.reply(done.job.assign.echo_id))
            return
        if isinstance(done.work, Marking):
            return
        if isinstance(done.work, Scanning):
            for refused in done.work.scan.outcome.rejected:
                log.warning("model refused", path=refused.path, code=refused.code.value, reason=refused.reason)
        self._is_ready = True
        self._tell_all()

    def _failed(self, failed: Running, error: Exception) -> None:
        self._running = None
        failed.work.finish()
        if failed.job is not None:
            info = error.info if isinstance(error, Fault) else incident(error, failed.job.assign)
            self._fail(failed.job.assign, info, failed.job.started)
            return
        if self._is_ready:
            log.error("work that nobody asked for failed", exc_info=error)
            return
        # Without its first scan the catalogue would claim what it does not know: the supervisor starts another.
        raise error

    def _give_up(self, code: ErrorCode, reason: str) -> None:
        running = self._running
        if running is None:
            return
        self._running = None
        running.steps.close()
        running.work.finish()
        if running.job is not None:
            self._fail(running.job.assign, Fault(code, reason).info, running.job.started)

    # what goes out

    def _register(self) -> None:
        jobs = [*([self._running.job] if self._running and self._running.job else []), *self._waiting]
        holding = [link.Holding(assign=job.assign, body=job.body, ended=False) for job in jobs]
        self._send(
            link.Register(
                worker_id=self._worker_id,
                generation=self._spec.generation,
                pid=os.getpid(),
                ready=self._is_ready,
                holding=holding,
            )
        )

    def _tell_all(self) -> None:
        self._catalogue.take_changed()
        refs = self._catalogue.refs()
        self._catalogue.take_refusals()
        self._send(link.CatalogRefusals(files=self._catalogue.refusals()[:MOST_REFUSED]))
        for start in range(0, max(len(refs), 1), PIECE):
            piece, more = refs[start : start + PIECE], start + PIECE < len(refs)
            self._send(link.CatalogEntries(entries=piece, complete=True, more=more, change="scanned"))
        self._send(link.Report(ready=True))

    def _tell_changes(self, change: str) -> None:
        refusals = self._catalogue.take_refusals()
        if refusals is not None:
            self._send(link.CatalogRefusals(files=refusals[:MOST_REFUSED]))
        changed, gone = self._catalogue.take_changed()
        for start in range(0, len(changed), PIECE):
            self._send(link.CatalogEntries(entries=changed[start : start + PIECE], change=change))
        for start in range(0, len(gone), PIECE):
            self._send(link.CatalogEntries(entries=[], removed=gone[start : start + PIECE], change=change))

    def _reply(self, job: Job, reply: r.Reply) -> None:
        self._tell_changes(CHANGES.get(job.assign.action, "changed"))
        total_ms = job.assign.queue_ms + (time.monotonic() - job.started) * 1000
        reply = msgspec.structs.replace(
            reply,
            warnings=[*job.warnings, *reply.warnings],
            timing=msgspec.structs.replace(reply.timing, queue_ms=job.assign.queue_ms, total_ms=total_ms),
        )
        model_id = getattr(reply, "model_id", "")
        self._send_final(job.assign, reply, model_id, None)

    def _fail(
        self,
        assign: link.Assign,
        error: ErrorInfo,
        started: float,
        results: dict[str, str] | msgspec.UnsetType = msgspec.UNSET,
    ) -> None:
        self._tell_changes(CHANGES.get(assign.action, "changed"))
        state = ReplyState.CANCELLED if error.code is ErrorCode.CANCELLED else ReplyState.FAILED
        total_ms = assign.queue_ms + (time.monotonic() - started) * 1000
        reply = r.FailedReply(
            request_id=assign.echo_id,
            action=assign.action,
            success=False,
            state=state,
            message=error.message,
            warnings=assign.warnings,
            error=error,
            validation_results=results,
            timing=r.Timing(queue_ms=assign.queue_ms, total_ms=total_ms),
        )
        self._send_final(assign, reply, "", error.code)

    def _send_final(self, assign: link.Assign, reply: r.Reply, model_id: str, code: ErrorCode | None) -> None:
        update = link.JobUpdate(
            request_id=assign.request_id,
            attempt=assign.attempt,
            state=reply.state,
            success=reply.success,
            error_code=code,
            model_id=model_id,
        )
        self._send(update, encode_reply(reply, assign.spelling))

    def _send(self, message: link.Message, *frames: bytes) -> None:
        self._outbox.append([link.encode(message), *frames])
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                self._socket.send_multipart(self._outbox[0], zmq.NOBLOCK)
            except zmq.Again:
                return
            self._outbox.popleft()


CHANGES = {
    "scan_models": "scanned",
    "register_model": "registered",
    "update_metadata": "updated",
    "unregister_model": "removed",
}
"""What a command's changes are called in `catalog` events."""


def _key(job: Job) -> tuple[str, int]:
    return job.assign.request_id, job.assign.attempt


def incident(error: Exception, assign: link.Assign) -> ErrorInfo:
    """An unexpected fault: opaque to the client, whole in the log, joined by the incident's id."""
    incident_id = secrets.token_hex(8)
    log.error(
        "unexpected fault", incident_id=incident_id, request_id=assign.request_id, action=assign.action, exc_info=error
    )
    return Fault(
        ErrorCode.INTERNAL_ERROR,
        f"an unexpected fault in the catalogue; the log has it as incident {incident_id}",
        details={"incident_id": incident_id},
    ).info
