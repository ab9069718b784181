"""A command's life: received, queued, running, final.

A request id names one job for as long as it is known. Whoever sends it again with the same meaning waits for, or gets,
the same outcome in its own spelling.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime

import msgspec
from msgspec import Struct

from broker.core.decision import Decision
from broker.core.figures import OTHER_MS
from broker.core.finals import Final
from broker.core.quotas import Sender
from protocol.actions import Action
from protocol.codec import NO_LIMITS, Refused, decode_command, decode_reply, encode_reply
from protocol.commands import Command, ModelCommand
from protocol.enums import JobState, Lane
from protocol.errors import Fault
from protocol.link import SCOPE_END, ModelRef, Spelling, wire_id
from protocol.replies import Reply

UNANSWERED = frozenset({Lane.CONTROL, Lane.CATALOG})
"""Lanes whose commands are bounded until they are answered, since nothing holds them back from their workers."""


class Waiter(Struct, frozen=True):
    """Somebody to answer: where, in which envelope, in which spelling."""

    client: bytes
    envelope: tuple[bytes, ...]
    spelling: Spelling
    wants_progress: bool = False


class Job(Struct, eq=False):
    """One command on its way.

    `request_id` begins with the scope of the key that sent it, where keys are in use; clients know it as `wire_id`.
    `client` is whose turn it takes in a queue; `spelling` is the one its worker writes, other waiters get it rendered
    anew. `parts` are commands of the broker's own that do this one's work, one on each device; `on_final` belongs to
    those: it is called instead of answering a client. `followers` are equal loads that get this one's outcome.
    `estimate_ms` is how long it is expected to take on its device, `promised_bytes` what it will add to the models
    there.
    """

    request_id: str
    command: Command
    action: Action
    client: bytes
    body: tuple[bytes, ...]
    spelling: Spelling
    arrived: float
    warnings: list[str] = []
    waiters: list[Waiter] = []
    state: JobState = JobState.QUEUED
    counted: bool = False
    device_id: str = ""
    model: ModelRef | None = None
    source: ModelRef | None = None
    worker: bytes | None = None
    attempt: int = 0
    started: datetime | None = None
    cancelling: bool = False
    passed: int = 0
    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None
    deadline: float | None = None
    timer: int | None = None
    final: Final | None = None
    parts: list[Job] = []
    on_final: Callable[[Job, float], None] | None = None
    began: bool = False
    """It is on record that a worker has it, which it may not have twice."""
    known_digests: tuple[bytes, ...] | None = None
    """Those of attachments that are no longer here."""
    leads: bool = False
    leader: Job | None = None
    followers: list[Job] = []
    estimate_ms: float = OTHER_MS
    promised_bytes: int = 0
    decision: Decision | None = None
    sender: Sender | None = None

    @property
    def wire_id(self) -> str:
        return wire_id(self.request_id)

    @property
    def scope(self) -> str:
        """What other request ids of the same sender begin with."""
        return "".join(self.request_id.rpartition(SCOPE_END)[:2])

    @property
    def model_id(self) -> str:
        if self.model is not None:
            return self.model.model_id
        return self.command.model_id if isinstance(self.command, ModelCommand) else ""

    def same_meaning(self, command: Command, body: tuple[bytes, ...]) -> bool:
        """Is it the same command with the same attachments, however it is spelled?"""
        return meaning(self.command) == meaning(command) and self.digests() == digests(body)

    def digests(self) -> tuple[bytes, ...]:
        """SHA-256 of each attachment."""
        return digests(self.body) if self.known_digests is None else self.known_digests


def answers(final: Final, command: Command, body: tuple[bytes, ...]) -> bool:
    """Was a final reply written for this command with these attachments, however it is spelled?

    What was understood once is understood again, whatever the limits have become since.
    """
    if final.digests != digests(body):
        return False
    try:
        return meaning(decode_command(final.payload, NO_LIMITS).command) == meaning(command)
    except Refused:
        return False


def meaning(command: Command) -> Command:
    """A command without what changes only how it is answered."""
    return msgspec.structs.replace(
        command, request_id=None, conventions=None, wait_for_completion=True, stream_progress=False
    )


def digests(body: Sequence[bytes]) -> tuple[bytes, ...]:
    """SHA-256 of each attachment behind a payload."""
    return tuple([hashlib.sha256(frame).digest() for frame in body[1:]]) if len(body) > 1 else ()


def respell(body: bytes, written: Spelling, wanted: Spelling) -> bytes:
    """A final reply as another waiter wants it; as it is, where it is none that can be read."""
    if written == wanted:
        return body
    try:
        return encode_reply(decode_reply(body), wanted)
    except Fault:
        return body


def read_final(final: Final) -> Reply:
    """A stored reply as its struct."""
    return decode_reply(final.body)


class Jobs:
    """Every job that is not final, by its request id.

    Invariant: a job that is not final is never forgotten; the counts of what waits are those of the jobs that do.
    """

    def __init__(self) -> None:
        self._live: dict[str, Job] = {}
        self._queued: dict[bytes, int] = {}
        self._queued_total = 0

    def __iter__(self) -> Iterator[Job]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        return len(self._live)

    def add(self, job: Job) -> None:
        """A new job under its request id."""
        self._live[job.request_id] = job

    def wait(self, job: Job) -> None:
        """A job has to wait: in a queue, or for the catalogue."""
        if not job.counted:
            job.counted = True
            self._queued[job.client] = self._queued.get(job.client, 0) + 1
            self._queued_total += 1

    def start(self, job: Job) -> None:
        """A job waits no longer: a worker has it. In the control and catalog lanes it counts until it is answered."""
        if job.counted and job.action.lane not in UNANSWERED:
            self._leave_queue(job)
        job.state = JobState.RUNNING

    @property
    def queued_total(self) -> int:
        """How many jobs wait."""
        return self._queued_total

    def queued_by(self, client: bytes) -> int:
        """How many jobs of one client wait."""
        return self._queued.get(client, 0)

    def _leave_queue(self, job: Job) -> None:
        job.counted = False
        self._queued_total -= 1
        left = self._queued[job.client] - 1
        if left:
            self._queued[job.client] = left
        else:
            del self._queued[job.client]

    def live(self, request_id: str) -> Job | None:
        """The job of a request id that is not final; None where there is none."""
        return self._live.get(request_id)

    def finish(self, job: Job) -> None:
        """A job is final, its request id free for whoever keeps its reply."""
        del self._live[job.request_id]
        if job.counted:
            self._leave_queue(job)
        job.state = JobState.FINAL
