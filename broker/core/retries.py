"""What happens to a command whose worker was lost: an idempotent one runs again, a poisonous one never does.

A command that was running when its worker died is under suspicion, whatever its request id: after the second death it
is refused for an hour.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta

import msgspec

from broker.core.jobs import Job, meaning
from protocol.errors import ErrorCode, Fault

MOST_RETRIES = 2
POISON_DEATHS = 2
QUARANTINE_SECONDS = 3600.0
MOST_SUSPECTS = 1024


class Quarantine:
    """Deaths by what a command means; the oldest suspicion is forgotten first."""

    def __init__(self, wall: Callable[[], datetime]) -> None:
        self._wall = wall
        self._deaths: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def blame(self, job: Job, now: float) -> int:
        """A worker died while it ran this command; how many did within the last hour."""
        key = _key(job)
        deaths = self._recent(key, now) + 1
        self._deaths[key] = (deaths, now)
        self._deaths.move_to_end(key)
        if len(self._deaths) > MOST_SUSPECTS:
            self._deaths.popitem(last=False)
        return deaths

    def absolve(self, job: Job) -> None:
        """The command ended well: what died before did not die of it."""
        if self._deaths:
            self._deaths.pop(_key(job), None)

    def check(self, job: Job, now: float) -> None:
        """Raise WORKER_LOST for a command that ended its workers before."""
        if self._deaths and self._recent(_key(job), now) >= POISON_DEATHS:
            raise self.refusal(job, now)

    def refusal(self, job: Job, now: float) -> Fault:
        """What is said of a command that ended its workers: how many, and until when it is refused."""
        deaths, at = self._deaths.get(_key(job), (POISON_DEATHS, now))
        minutes = int(QUARANTINE_SECONDS / 60)
        text = f"{job.action.name} ended {deaths} workers: the same command is not run again for {minutes} minutes"
        until = self._wall() + timedelta(seconds=QUARANTINE_SECONDS - (now - at))
        return Fault(ErrorCode.WORKER_LOST, text, retryable=False, details={"deaths": deaths, "until": until})

    def _recent(self, key: bytes, now: float) -> int:
        deaths, at = self._deaths.get(key, (0, now))
        return deaths if now - at < QUARANTINE_SECONDS else 0


def may_run_again(job: Job) -> bool:
    """Whether a command that may have been executed once may be executed again; `attempt` counts from 1."""
    return job.action.idempotent and job.attempt <= MOST_RETRIES and not job.cancelling and job.on_final is None


def _key(job: Job) -> bytes:
    plain = msgspec.structs.replace(meaning(job.command), timeout_seconds=None)
    return hashlib.sha256(msgspec.msgpack.encode(plain) + b"".join(job.digests())).digest()
