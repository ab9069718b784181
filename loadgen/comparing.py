"""Two reports beside each other: what became faster, slower, more and less."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct

from loadgen.report import SCHEMA, Report
from loadgen.scenario import ScenarioError

NOISE = 0.05
"""Changes of less are no changes: one run differs from the next by as much."""


class Change(Struct, frozen=True, kw_only=True):
    """One figure of both; `ratio` is the second by the first, `better` None where they are alike."""

    name: str
    before: float
    after: float
    ratio: float | None
    better: bool | None


def read_report(path: Path) -> Report:
    """A report's JSON. Raises OSError, ScenarioError for what is none, or of another version."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path} is no load report: {error}") from None
    if found.schema != SCHEMA:
        raise ScenarioError(f"{path} has schema {found.schema}: this version reads {SCHEMA}")
    return found


def compare(before: Report, after: Report) -> list[Change]:
    """Every figure that both have."""
    changes = [
        _change("completed a second", before.achieved_rate, after.achieved_rate, more_is_better=True),
        _change("good a second", before.good_rate, after.good_rate, more_is_better=True),
    ]
    changes += [
        _change(outcome, before.outcomes[outcome], after.outcomes[outcome], more_is_better=False)
        for outcome in ("failed", "timed_out", "dropped")
    ]
    for action in sorted(before.commands.keys() & after.commands.keys()):
        for measure in ("latency", "queue", "load", "compute", "transport"):
            first, second = (getattr(one.commands[action], measure) for one in (before, after))
            if first is None or second is None:
                continue
            for rank in ("p50", "p99"):
                name = f"{action} {measure} {rank}, ms"
                changes.append(_change(name, first.percentiles[rank], second.percentiles[rank], more_is_better=False))
    return changes


def _change(name: str, before: float, after: float, *, more_is_better: bool) -> Change:
    ratio = after / before if before else None
    if before == after or (ratio is not None and abs(ratio - 1) < NOISE):
        better = None
    else:
        better = (after > before) == more_is_better
    return Change(name=name, before=before, after=after, ratio=ratio, better=better)
