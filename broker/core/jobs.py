"""A command's life: received, queued, running, final; and the finals kept for those who ask again.

A request id names one job for as long as it is known. Whoever sends it again with the same meaning waits for, or gets,
the same outcome in its own spelling.
"""

from __future__ import annotations

import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec
from msgspec import Struct

from protocol.actions import Action
from protocol.codec import decode_reply, encode_reply
from protocol.commands import Command, ModelCommand
from protocol.enums import JobState
from protocol.link import ModelRef, Spelling
from protocol.replies import Reply

KEEP_SECONDS = 600.0
KEEP_BYTES = 1 << 30


class Waiter(Struct, frozen=True):
    """Somebody to answer: where, in which envelope, in which spelling."""

    client: bytes
    envelope: tuple[bytes, ...]
    spelling: Spelling
    wants_progress: bool = False


class Final(Struct, frozen=True):
    """A final reply as it was written, its attachments, and when it was."""

    body: bytes
    attachments: tuple[bytes, ...]
    at: float
    success: bool

    @property
    def size_bytes(self) -> int:
        return len(self.body) + sum(map(len, self.attachments))


class Job:
    """One command on its way.

    `client` is whose turn it takes in a queue; `spelling` is the one its worker writes, other waiters get it rendered
    anew.
    """

    def __init__(
        self,
        request_id: str,
        command: Command,
        action: Action,
        *,
        client: bytes,
        body: tuple[bytes, ...],
        spelling: Spelling,
        arrived: float,
        warnings: list[str],
    ) -> None:
        self.request_id = request_id
        self.command = command
        self.action = action
        self.client = client
        self.body = body
        self.spelling = spelling
        self.arrived = arrived
        self.warnings = warnings
        self.waiters: list[Waiter] = []
        self.state = JobState.QUEUED
        self.device_id = ""
        self.model: ModelRef | None = None
        self.worker: bytes | None = None
        self.attempt = 0
        self.started: datetime | None = None
        self.cancelling = False
        self.step: int | None = None
        self.steps: int | None = None
        self.eta_ms: float | None = None
        self.deadline: float | None = None
        self.timer: int | None = None
        self.final: Final | None = None
        self.parts: list[Job] = []
        """Commands of the broker's own that do this one's work, one on each device."""
        self.on_final: Callable[[Job, float], None] | None = None
        """For commands of the broker's own: called instead of answering a client."""

    @property
    def model_id(self) -> str:
        if self.model is not None:
            return self.model.model_id
        return self.command.model_id if isinstance(self.command, ModelCommand) else ""

    def same_meaning(self, command: Command, body: tuple[bytes, ...]) -> bool:
        """Is it the same command with the same attachments, however it is spelled?"""
        return _meaning(self.command) == _meaning(command) and _digest(self.body) == _digest(body)


def _meaning(command: Command) -> Command:
    return msgspec.structs.replace(
        command, request_id=None, conventions=None, wait_for_completion=True, stream_progress=False
    )


def _digest(body: tuple[bytes, ...]) -> list[bytes]:
    return [hashlib.sha256(frame).digest() for frame in body[1:]]


def respell(body: bytes, written: Spelling, wanted: Spelling) -> bytes:
    """A final reply as another waiter wants it."""
    return body if written == wanted else encode_reply(decode_reply(body), wanted)


def read_final(final: Final) -> Reply:
    """A stored reply as its struct."""
    return decode_reply(final.body)


class Jobs:
    """Every job by its request id, and the final ones within their bounds of age and size.

    Invariant: a job that is not final is never forgotten; the counts of what is queued are those of the jobs in that
    state.
    """

    def __init__(self) -> None:
        self._live: dict[str, Job] = {}
        self._queued: Counter[bytes] = Counter()
        self._queued_total = 0
        self._finals: OrderedDict[str, Job] = OrderedDict()
        self._finals_bytes = 0

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def add(self, job: Job) -> None:
        """A new job under its request id, queued."""
        self._live[job.request_id] = job
        self._queued[job.client] += 1
        self._queued_total += 1

    def start(self, job: Job) -> None:
        """A job waits no longer: a worker has it."""
        if job.state is JobState.QUEUED:
            self._leave_queue(job)
            job.state = JobState.RUNNING

    @property
    def queued_total(self) -> int:
        """How many jobs wait."""
        return self._queued_total

    def queued_by(self, client: bytes) -> int:
        """How many jobs of one client wait."""
        return self._queued[client]

    def _leave_queue(self, job: Job) -> None:
        self._queued_total -= 1
        self._queued[job.client] -= 1
        if not self._queued[job.client]:
            del self._queued[job.client]

    def get(self, request_id: str) -> Job | None:
        """The job, live or final; None where the id is unknown."""
        return self._live.get(request_id) or self._finals.get(request_id)

    def live(self, request_id: str) -> Job | None:
        """The job if it is not final."""
        return self._live.get(request_id)

    def finish(self, job: Job, final: Final, *, keep: bool) -> None:
        """Make a job final; kept for `get_result` unless it is none that is stored."""
        del self._live[job.request_id]
        if job.state is JobState.QUEUED:
            self._leave_queue(job)
        job.state = JobState.FINAL
        job.body = job.body[:1] if not job.command.attachments else job.body
        if keep:
            job.final = final
            self._finals[job.request_id] = job
            self._finals_bytes += final.size_bytes
            if self._finals_bytes > KEEP_BYTES:
                self.expire(final.at)

    def expire(self, now: float) -> None:
        """Forget finals that are too old or, oldest first, too many bytes."""
        while self._finals:
            job = next(iter(self._finals.values()))
            final = job.final
            assert final is not None
            if final.at + KEEP_SECONDS > now and self._finals_bytes <= KEEP_BYTES:
                break
            self._finals.popitem(last=False)
            self._finals_bytes -= final.size_bytes
