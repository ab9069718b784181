"""Equal loads in flight are one load: the later ones follow the first and get its outcome under their own ids.

A follower takes no room in a queue. Where its leader is cancelled, late or lost, the follower is placed anew: what the
leader had begun goes on for it.
"""

from __future__ import annotations

import msgspec

from broker.core.jobs import Job, meaning
from protocol import commands as c
from protocol.enums import JobState, LoadPriority
from protocol.errors import ErrorCode, ErrorInfo

_ORDER = list(LoadPriority)
_PERSONAL = frozenset({ErrorCode.CANCELLED, ErrorCode.TIMEOUT, ErrorCode.QUEUE_FULL, ErrorCode.WORKER_LOST})
"""Ends of a leader that say nothing of the load itself."""


class Coalescing:
    """The loads in flight by model. Invariant: a leader is live and follows nobody; a follower is in no queue."""

    def __init__(self) -> None:
        self._leaders: dict[str, list[Job]] = {}

    def leader_of(self, job: Job) -> Job | None:
        """The load in flight that is as good as this one."""
        command = job.command
        if not isinstance(command, c.LoadModel) or command.force:
            return None
        return next((leader for leader in self._leaders.get(command.model_id, ()) if _may_follow(job, leader)), None)

    def join(self, job: Job) -> bool:
        """Let a load follow an equal one; False where there is none, and it may be followed itself from now on."""
        leader = self.leader_of(job)
        if leader is not None:
            leader.followers.append(job)
            job.leader, job.device_id, job.state = leader, leader.device_id, leader.state
            return True
        if isinstance(job.command, c.LoadModel) and not job.leads:
            job.leads = True
            self._leaders.setdefault(job.command.model_id, []).append(job)
        return False

    def leave(self, job: Job) -> None:
        """A follower ends on its own."""
        if job.leader is not None:
            job.leader.followers.remove(job)
            job.leader = None

    def ended(self, job: Job) -> list[Job]:
        """A load is no longer in flight: who followed it."""
        if not job.leads or not isinstance(job.command, c.LoadModel):
            return []
        leaders = self._leaders[job.command.model_id]
        leaders.remove(job)
        if not leaders:
            del self._leaders[job.command.model_id]
        followers, job.followers = job.followers, []
        for follower in followers:
            follower.leader = None
        return followers


def is_personal(error: ErrorInfo | None) -> bool:
    """Does a leader's end leave open what becomes of its followers?"""
    return error is not None and error.code in _PERSONAL


def _may_follow(job: Job, leader: Job) -> bool:
    """Same meaning, and the leader's turn comes no later."""
    if leader is job or leader.cancelling or leader.on_final is not None:
        return False
    waits = leader.state is JobState.QUEUED
    if waits and _ORDER.index(leader.command.priority) < _ORDER.index(job.command.priority):
        return False
    return _load_of(job) == _load_of(leader)


def _load_of(job: Job) -> c.Command:
    return msgspec.structs.replace(meaning(job.command), priority=LoadPriority.Normal, timeout_seconds=None)
