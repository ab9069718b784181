"""The I/O thread: this worker's side of the link. Owns the socket, beats, answers the control lane, relays the device's
words. Never blocks, never touches torch, keeps trying while the broker is silent."""

from __future__ import annotations

import os
import time
from collections import deque
from pathlib import Path

import msgspec
import zmq

from protocol import link
from protocol.enums import Lane
from protocol.errors import ErrorCode
from settings.keys import read_key
from settings.logs import Logger
from worker.engine import Engine
from worker.job import Job
from worker.lane import DeviceLane, final_parcel
from worker.mailbox import Mailbox, Parcel

FLUSH_MS = 1000
RETRY_MS = 10
CANCEL_GRACE_SECONDS = 2.0
DEFAULT_DRAIN_SECONDS = 10.0
RECEIVES_PER_TURN = 64
LAST_WORDS_SECONDS = 0.5
LOADING_SHARE = 0.25
"""While a model is brought, samples are taken after this share of the time that is between them else."""
DEVICE_LOST = 1
"""Exit status of a worker whose device, or device's thread, is of no use any more."""

log = Logger()
Attempt = tuple[str, int]


class Session:
    """One connection to the broker, from registration to the stop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], engine: Engine, mailbox: Mailbox) -> None:
        spec = engine.spec
        self._spec = spec
        self._engine = engine
        self._mailbox = mailbox
        self._lane = DeviceLane(engine, mailbox)
        self._worker_id = f"{spec.device_id}/{spec.generation}/{os.urandom(2).hex()}"
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.IDENTITY, self._worker_id.encode())
        self._socket.setsockopt(zmq.LINGER, FLUSH_MS)
        if spec.key_file:
            read_key(Path(spec.key_file)).apply(self._socket)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(mailbox.descriptor, zmq.POLLIN)
        self._outbox: deque[list[bytes]] = deque()
        self._jobs: dict[Attempt, Job] = {}
        self._unconfirmed: dict[Attempt, tuple[Job, Parcel]] = {}
        self._epoch: str | None = None
        self._stop_at: float | None = None
        self._fatal_at: float | None = None
        self._stop_asked: float | None = None
        self._next_beat = self._next_sample = 0.0

    def ask_stop(self) -> None:
        """Stop as a `Stop` message would. Safe in a signal handler."""
        self._stop_asked = DEFAULT_DRAIN_SECONDS
        self._mailbox.wake()

    def run(self) -> int:
        """Serve until stopped; the exit status."""
        self._socket.connect(self._spec.link)
        self._register()
        self._lane.start()
        while not self._finished():
            self._turn()
        self._relay()
        self._flush()
        if self._engine.fatal:
            log.error("this worker ends", reason=self._engine.fatal)
            self._send([link.encode(link.Farewell(reason=self._engine.fatal))])
        self._socket.close()
        return DEVICE_LOST if self._engine.fatal else 0

    def _turn(self) -> None:
        self._poller.poll(self._patience_ms())
        self._relay()
        for _ in range(RECEIVES_PER_TURN):
            if not int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                break
            self._receive(self._socket.recv_multipart(zmq.DONTWAIT))
        self._flush()
        self._timers(time.monotonic())

    def _patience_ms(self) -> int:
        if self._outbox:
            return RETRY_MS
        return max(0, int((min(self._next_beat, self._next_sample) - time.monotonic()) * 1000) + 1)

    def _timers(self, now: float) -> None:
        if self._stop_asked is not None:
            self._stop(self._stop_asked)
            self._stop_asked = None
        if now >= self._next_beat:
            self._next_beat = now + self._spec.heartbeat_ms / 1000
            self._offer(link.Beat(progress_count=self._lane.progress_count))
        between = self._spec.telemetry_ms / 1000 * (LOADING_SHARE if self._engine.loading else 1.0)
        if now >= self._next_sample:
            self._next_sample = now + between
            self._offer(link.Report(ready=self._engine.ready, telemetry=self._engine.sample()))
        self._next_sample = min(self._next_sample, now + between)
        if self._stop_at is not None and now >= self._stop_at:
            for job in self._jobs.values():
                job.cancel(ErrorCode.DRAINING, "the worker is stopping and its drain time is over")

    def _finished(self) -> bool:
        if self._engine.fatal:
            # What the device's thread has finished it may still say; one that is stuck is not waited for.
            self._fatal_at = self._fatal_at or time.monotonic()
            return not self._lane.is_alive() or time.monotonic() >= self._fatal_at + LAST_WORDS_SECONDS
        if self._stop_at is None:
            return False
        return not self._jobs or time.monotonic() >= self._stop_at + CANCEL_GRACE_SECONDS

    # sending

    def _send(self, frames: list[bytes]) -> None:
        self._outbox.append(frames)
        self._flush()

    def _flush(self) -> None:
        while self._outbox:
            try:
                self._socket.send_multipart(self._outbox[0], zmq.DONTWAIT)
            except zmq.Again:
                return
            self._outbox.popleft()

    def _offer(self, message: link.Message) -> None:
        """Send what the next one of its kind replaces: dropped where the broker does not take it."""
        if self._outbox:
            return
        try:
            self._socket.send(link.encode(message), zmq.DONTWAIT)
        except zmq.Again:
            return

    def _relay(self) -> None:
        for parcel in self._mailbox.collect():
            job = self._jobs.pop(parcel.final, None) if parcel.final is not None else None
            if job is not None and parcel.final is not None:
                self._unconfirmed[parcel.final] = (job, parcel)
            self._send(parcel.frames)

    def _register(self) -> None:
        held = [(job, False) for job in self._jobs.values()]
        held += [(job, True) for job, _ in self._unconfirmed.values()]
        register = link.Register(
            worker_id=self._worker_id,
            generation=self._spec.generation,
            pid=os.getpid(),
            device=self._engine.device.identity(),
            ready=self._engine.ready,
            holding=[
                link.Holding(assign=job.assign, body=[job.body, *job.attachments], ended=ended) for job, ended in held
            ],
        )
        self._send([link.encode(register)])

    # receiving

    def _receive(self, frames: list[bytes]) -> None:
        try:
            message = link.decode_to_worker(frames[0])
        except (msgspec.DecodeError, ValueError) as error:
            log.error("the broker sent what no worker understands", error=str(error))
            return
        match message:
            case link.Welcome(epoch=epoch):
                self._welcome(epoch)
            case link.Assign():
                self._assign(message, frames[1:])
            case link.CancelJob():
                self._cancel(message)
            case link.Prefetch():
                models = {job.assign.model.model_id for job in self._jobs.values() if job.assign.model is not None}
                self._engine.prefetcher.want(message, models)
            case link.Stop(drain_seconds=seconds):
                self._stop(seconds)
            case _:
                log.error("the broker sent what is not for a device's worker", message=type(message).__name__)

    def _welcome(self, epoch: str) -> None:
        """Another epoch is another broker: it is told of everything held, and again of outcomes it may have missed."""
        known, self._epoch = self._epoch, epoch
        if known is not None and known != epoch:
            self._register()
        if known != epoch:
            self._send([link.encode(self._engine.report())])
        if known is not None and known != epoch:
            for _, parcel in self._unconfirmed.values():
                self._send(parcel.frames)

    def _assign(self, assign: link.Assign, frames: list[bytes]) -> None:
        attempt = (assign.request_id, assign.attempt)
        if attempt in self._jobs:
            return  # it is answered when it ends
        job = Job(assign, frames[0] if frames else b"", frames[1:])
        if assign.lane is Lane.CONTROL:
            outcome = self._engine.run(job)
            self._send([link.encode(self._engine.report())])
            self._send(final_parcel(self._engine, job, outcome).frames)
        elif self._stop_at is not None:
            outcome = self._engine.refused(job, ErrorCode.DRAINING, f"{assign.device_id} is stopping")
            self._send(final_parcel(self._engine, job, outcome).frames)
        else:
            # One command at a time: the next assignment tells that the outcome of the last one came through.
            self._unconfirmed.clear()
            self._jobs[attempt] = job
            self._lane.submit(job)

    def _cancel(self, message: link.CancelJob) -> None:
        job = self._jobs.get((message.request_id, message.attempt))
        if job is not None:
            job.cancel(message.code, message.reason)

    def _stop(self, drain_seconds: float) -> None:
        stop_at = time.monotonic() + drain_seconds
        self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
