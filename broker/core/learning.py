"""What finished work teaches: estimates from what workers measured, and the evictions that a command caused."""

from __future__ import annotations

import msgspec

from broker.core.context import Context
from broker.core.figures import ACTION_MS, Shape, shape_of
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol.enums import ReplyState, Tier
from protocol.link import JobUpdate, ModelChanged, RunFacts

LONGEST_MS = 1e10
"""What takes longer than a third of a year was not measured."""

_EVICTED = "evicted"
"""How the reason of a model's event begins when others took its place."""


def learn(job: Job, device: Device, update: JobUpdate, context: Context) -> None:
    """Take in what a command says of itself: when it will be done, or, where it succeeded, what it measured."""
    now, decision = context.clock(), job.decision
    if update.state is ReplyState.PROGRESS:
        eta_ms = update.eta_ms
        if eta_ms is not None and 0.0 <= eta_ms < LONGEST_MS:
            device.ends_at = now + eta_ms / 1000.0
        return
    if not update.success or job.model is None or decision is None or decision.started_at is None:
        return
    if update.facts is not None and not _is_plausible(update.facts):
        return
    elapsed_ms = (now - decision.started_at) * 1000.0
    estimates, make, shape, facts = context.estimates, device.make, shape_of(job.command, job.action.name), update.facts
    if facts is not None and shape.action in ACTION_MS:
        # What it ran were pictures; it took as long as it took.
        estimates.learn(job.model, make, shape, None, elapsed_ms)
        shape, facts = _picture(facts)
    estimates.learn(job.model, make, shape, facts, elapsed_ms)


def _picture(facts: RunFacts) -> tuple[Shape, RunFacts]:
    """One of several equal runs."""
    one = msgspec.structs.replace(facts, run_ms=None if facts.run_ms is None else facts.run_ms / facts.runs, runs=1)
    return Shape("generate", facts.width, facts.height, facts.steps, max(1, facts.images // facts.runs)), one


def _is_plausible(facts: RunFacts) -> bool:
    """Could it have been measured? One figure that is no number would stay in every estimate."""
    times = (facts.load_ms, facts.run_ms)
    counts = (facts.images, facts.peak_bytes or 0, facts.weights_bytes, facts.steps, facts.width, facts.height)
    return all(ms is None or 0.0 <= ms < LONGEST_MS for ms in times) and min(counts) >= 0 and facts.runs >= 1


def note_eviction(job: Job | None, change: ModelChanged) -> None:
    """A model left the device while a command ran there."""
    left = change.from_tier is Tier.VRAM and change.reason.startswith(_EVICTED)
    if left and job is not None and job.decision is not None:
        job.decision.evictions += ((change.model_id, change.freed_bytes),)
