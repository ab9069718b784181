"""What a soak proves: one check for each promise, with its figures; JSON for programs, JUnit for what runs tests. Pure.

`schema` grows where a field changes its meaning.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from msgspec import Struct

from soak.ledger import MOST_NAMED, Finding, Ledger
from soak.samples import DeviceSample, Sample
from soak.slopes import Slope, slope

SCHEMA = 1
LEAK_BYTES_A_MINUTE = 512 << 10
"""Of a process's resident memory: what must be exceeded, by the lower bound of its slope, to be a leak."""

LEAK_A_MINUTE = {"descriptors": 1.0, "threads": 0.5}
RECOVERY_SECONDS = 60.0
LEAST_DONE = 10


class Recovery(Struct, frozen=True, kw_only=True):
    """A process that was killed, and when its place was taken; `seconds` None: never."""

    at: float
    role: str
    seconds: float | None


class Check(Struct, frozen=True, kw_only=True):
    """One promise, and whether it was kept."""

    name: str
    passed: bool
    text: str
    figures: dict[str, Any] = {}


class Verdict(Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: int = SCHEMA
    started_at: datetime
    minutes: float
    seed: int
    ended: str
    passed: bool
    checks: list[Check]
    counts: dict[str, int]
    errors: dict[str, int]
    faults: dict[str, int]
    recoveries: list[Recovery]


def checks_of(
    ledger: Ledger,
    samples: Sequence[Sample],
    devices: Sequence[DeviceSample],
    recoveries: Sequence[Recovery],
    *,
    steady_from: float,
) -> list[Check]:
    """Every check of a run whose part without faults began at this second."""
    steady = [sample for sample in samples if sample.at >= steady_from]
    return [
        _none("every command was answered", ledger.findings("lost")),
        _none("no command ran twice", ledger.findings("doubled", "unknown")),
        _none("equal seeds drew equal bytes", ledger.findings("wrong picture")),
        _none("no error that nothing explains", ledger.findings("error")),
        _work(ledger),
        _recovered(recoveries),
        _memory(steady),
        *(_counted(steady, what) for what in LEAK_A_MINUTE),
        _queues(devices),
    ]


def _none(name: str, findings: Sequence[Finding]) -> Check:
    named = "; ".join(f"{one.request_id}: {one.text}" for one in findings[:MOST_NAMED])
    return Check(name=name, passed=not findings, text=named or "none", figures={"findings": len(findings)})


def _work(ledger: Ledger) -> Check:
    """A run in which nothing was done proves nothing."""
    done = ledger.counts["completed"]
    return Check(
        name="work was done", passed=done >= 10, text=f"{done} commands completed", figures=dict(ledger.counts)
    )


def _recovered(recoveries: Sequence[Recovery]) -> Check:
    late = [one for one in recoveries if one.seconds is None or one.seconds > RECOVERY_SECONDS]
    slowest: dict[str, float] = defaultdict(float)
    for one in recoveries:
        slowest[one.role.partition(" ")[0]] = max(slowest[one.role.partition(" ")[0]], one.seconds or RECOVERY_SECONDS)
    text = ", ".join(f"{role} within {seconds:.1f} s" for role, seconds in sorted(slowest.items()))
    missing = ", ".join(f"{one.role} killed at {one.at:.0f} s" for one in late)
    return Check(
        name="what was killed came back",
        passed=not late,
        text=missing or text or "nothing was killed",
        figures={"kills": len(recoveries), "slowest_seconds": dict(slowest)},
    )


def slopes_of(samples: Iterable[Sample], what: str) -> dict[str, Slope]:
    """The slope of each process's figure, over its longest life."""
    lives: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        lives[sample.role][sample.life].append((sample.at, float(getattr(sample, what))))
    found = {}
    for role, curves in lives.items():
        longest = max(curves.values(), key=lambda curve: curve[-1][0] - curve[0][0])
        one = slope(longest)
        if one is not None:
            found[role] = one
    return found


def _memory(samples: Sequence[Sample]) -> Check:
    found = slopes_of(samples, "resident_bytes")
    growing = {role: one for role, one in found.items() if one.low > LEAK_BYTES_A_MINUTE}
    told = growing or found
    text = ", ".join(f"{role} {_mebibytes(one)}" for role, one in sorted(told.items()))
    return Check(
        name="no process's memory grows",
        passed=bool(found) and not growing,
        text=text or "too short a time to say",
        figures={role: {"low": one.low, "per_minute": one.per_minute, "high": one.high} for role, one in found.items()},
    )


def _mebibytes(one: Slope) -> str:
    rise, low, high = (value / (1 << 20) for value in (one.per_minute, one.low, one.high))
    return f"{rise:+.2f} MiB a minute ({low:+.2f} to {high:+.2f})"


def _counted(samples: Sequence[Sample], what: str) -> Check:
    found = slopes_of(samples, what)
    growing = {role: one for role, one in found.items() if one.low > LEAK_A_MINUTE[what]}
    text = ", ".join(f"{role} {one.per_minute:+.2f} a minute" for role, one in sorted(growing.items()))
    return Check(
        name=f"no process's {what} grow",
        passed=bool(found) and not growing,
        text=text or ("none" if found else "too short a time to say"),
        figures={role: {"low": one.low, "per_minute": one.per_minute, "high": one.high} for role, one in found.items()},
    )


def _queues(devices: Sequence[DeviceSample]) -> Check:
    """At the end, with nothing sent any more, nothing waits."""
    last = {sample.device_id: sample for sample in devices}
    waiting = {device: sample.queue_depth for device, sample in last.items() if sample.queue_depth}
    text = ", ".join(f"{device}: {depth}" for device, depth in sorted(waiting.items()))
    passed = bool(last) and not waiting
    return Check(name="nothing waits at the end", passed=passed, text=text or "nothing", figures=dict(waiting))


def junit(verdict: Verdict) -> str:
    """The checks as test cases."""
    failures = sum(not check.passed for check in verdict.checks)
    suite = ET.Element(
        "testsuite",
        name="soak",
        tests=str(len(verdict.checks)),
        failures=str(failures),
        time=f"{verdict.minutes * 60:.1f}",
        timestamp=verdict.started_at.isoformat(timespec="seconds"),
    )
    for check in verdict.checks:
        case = ET.SubElement(suite, "testcase", classname="soak", name=check.name)
        if check.passed:
            ET.SubElement(case, "system-out").text = check.text
        else:
            ET.SubElement(case, "failure", message=check.text[:500]).text = check.text
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"
