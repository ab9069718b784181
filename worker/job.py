"""One assigned command on its way: its deadline, its cancellation, its progress and its outcome.

The I/O thread cancels, the device thread asks; nothing here knows sockets or devices.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from protocol.errors import ErrorCode, Fault
from protocol.link import Assign, RunFacts
from protocol.records import Record
from protocol.replies import Reply

PROGRESS_INTERVAL_SECONDS = 0.05
WAIT_SLICE_SECONDS = 0.5
Clock = Callable[[], float]


class Progress(Record, frozen=True, kw_only=True):
    """How far a job is: denoising steps, or the stage of a load with its bytes."""

    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None
    stage: str | None = None
    bytes_done: int = 0
    bytes_total: int = 0


class Outcome(Record, frozen=True, kw_only=True):
    """What a job ends with: the reply, the frames behind it, what it measured."""

    reply: Reply
    attachments: list[bytes] = []
    facts: RunFacts | None = None


class Job:
    """A command between its assignment and its final reply."""

    def __init__(
        self, assign: Assign, body: bytes, attachments: list[bytes] | None = None, clock: Clock = time.monotonic
    ) -> None:
        self.assign = assign
        self.body = body
        self.attachments = attachments or []
        self.on_progress: Callable[[Job, Progress], None] | None = None
        self.phases: dict[str, float] = {}
        self.warnings: list[str] = []
        self.not_measured: dict[str, str] = {}
        self.facts: RunFacts | None = None
        self.frames: list[bytes] = []
        self._clock = clock
        self._began = clock()
        self._deadline = None if assign.deadline_ms is None else self._began + assign.deadline_ms / 1000
        self._cancelled = threading.Event()
        self._cancel_code = ErrorCode.CANCELLED
        self._cancel_reason = ""
        self._last_sent = float("-inf")
        self._last_step = 0
        self._is_quiet = False
        self.advances = 0

    @property
    def elapsed_ms(self) -> float:
        return (self._clock() - self._began) * 1000

    def cancel(self, code: ErrorCode, reason: str) -> None:
        """Ask the job to stop at its next step. The first asker's reason stays."""
        if not self._cancelled.is_set():
            self._cancel_code, self._cancel_reason = code, reason
            self._cancelled.set()

    def check(self) -> None:
        """Raise the Fault of whoever stopped this job, or TIMEOUT past its deadline. Being asked is a sign of life."""
        self.advances += 1
        if self._cancelled.is_set():
            raise Fault(self._cancel_code, self._cancel_reason)
        if self._deadline is not None and self._clock() > self._deadline:
            action, allowed_ms = self.assign.action, self.assign.deadline_ms
            text = f"{action} passed its deadline: {allowed_ms:.0f} ms were left when the device took it"
            raise Fault(ErrorCode.TIMEOUT, text, details={"deadline_ms": allowed_ms})

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline; None without one."""
        return None if self._deadline is None else self._deadline - self._clock()

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Steps of a run that is itself a step of something larger are told to nobody."""
        before, self._is_quiet = self._is_quiet, True
        try:
            yield
        finally:
            self._is_quiet = before

    def wait(self, seconds: float) -> None:
        """Pass time as simulated work, ended early by a cancel or the deadline. Raises as `check`."""
        end = self._clock() + seconds
        while True:
            self.check()
            left = end - self._clock()
            if left <= 0:
                return
            until_deadline = left if self._deadline is None else max(0.0, self._deadline - self._clock()) + 0.001
            self._cancelled.wait(min(left, until_deadline, WAIT_SLICE_SECONDS))

    def step(self, done: int, total: int, eta_ms: float | None) -> None:
        """Tell of a finished step: each but once, at most one in 50 ms."""
        now = self._clock()
        if self._is_quiet or done <= self._last_step or now - self._last_sent < PROGRESS_INTERVAL_SECONDS:
            return
        self._last_step, self._last_sent = done, now
        self._tell(Progress(step=done, steps=total, eta_ms=eta_ms))

    def stage(self, name: str, bytes_done: int, bytes_total: int) -> None:
        """Tell of a load's stage, at most one in 50 ms."""
        now = self._clock()
        if now - self._last_sent < PROGRESS_INTERVAL_SECONDS:
            return
        self._last_sent = now
        self._tell(Progress(stage=name, bytes_done=bytes_done, bytes_total=bytes_total))

    def _tell(self, progress: Progress) -> None:
        if self.on_progress is not None:
            self.on_progress(self, progress)
