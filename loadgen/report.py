"""What a run came to, as one JSON document: the environment, the rates, the percentiles, the verdict of its thresholds.

`schema` grows where a field changes its meaning. Times are milliseconds, rates commands a second.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from hdrh.histogram import HdrHistogram
from msgspec import Struct

from loadgen.scenario import Scenario, ScenarioError
from loadgen.tally import STAGE, UNASKED, Span, Tally
from protocol.actions import ACTIONS, ALIASES
from protocol.enums import Lane
from protocol.version import VERSION

SCHEMA = 1
PERCENTILES = (50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
SPECTRUM = (0, 10, 25, 50, 75, 90, 95, 97.5, 99, 99.5, 99.75, 99.9, 99.95, 99.99, 99.999, 100)
OUTCOMES = ("completed", "failed", "timed_out", "cancelled", "dropped")
KEPT = 0.95
"""Of what was offered: what has to be completed by the stage's end, and the time for a good answer after it, for the
stage to count as kept up with."""

STEEP = 5.0
"""A 99th percentile so many times that of the calmest stage is past the knee."""

THRESHOLD = re.compile(r"\s*([a-z_0-9.]+)\s*(<=|>=|<|>)\s*([0-9.]+)\s*(ms|s|%|/s)?\s*")


class Spread(Struct, frozen=True, kw_only=True):
    """A distribution in milliseconds."""

    count: int
    mean: float
    min: float
    max: float
    percentiles: dict[str, float]


class Command(Struct, frozen=True, kw_only=True):
    """One action: what became of its commands, and where their time went. `loads` brought a model first.

    `latency` is counted from the intended sending, `service` from the sending itself: where they differ, the load
    itself was held up, and `service` leaves out what clients would have waited (coordinated omission).
    """

    outcomes: dict[str, int]
    good: int
    loads: int
    hit_rate: float | None
    latency: Spread | None
    service: Spread | None
    queue: Spread | None
    load: Spread | None
    compute: Spread | None
    transport: Spread | None


class StageReport(Struct, frozen=True, kw_only=True):
    """One stage: what was offered and what came of it a second.

    `achieved_rate` counts what was completed by the stage's end, and the time for a good answer after it.
    """

    seconds: float
    offered_rate: float
    achieved_rate: float
    good_rate: float
    concurrency: int
    outcomes: dict[str, int]
    latency: Spread | None
    keeps_up: bool


class Threshold(Struct, frozen=True, kw_only=True):
    """A condition of the scenario, and whether it held."""

    text: str
    value: float
    passed: bool


class Sample(Struct, frozen=True, kw_only=True):
    """A device at a moment of the run, from the broker's events."""

    seconds: float
    device_id: str
    used_bytes: int
    total_bytes: int


class Watched(Struct, frozen=True, kw_only=True):
    """What the broker's events said beside the run. `swaps`: a model came onto a device; evictions: one was put off."""

    samples: list[Sample] = []
    swaps: dict[str, int] = {}
    evictions: dict[str, int] = {}
    swap_seconds: list[float] = []
    peak_bytes: dict[str, int] = {}


class Report(Struct, frozen=True, kw_only=True):
    """The whole document."""

    schema: int = SCHEMA
    started_at: datetime
    environment: dict[str, Any]
    scenario: Scenario
    ended: str
    seconds: float
    offered_rate: float
    achieved_rate: float
    good_rate: float
    outcomes: dict[str, int]
    errors: dict[str, int]
    examples: dict[str, str]
    extra_answers: int
    commands: dict[str, Command]
    stages: list[StageReport]
    knee: int | None
    lag: Spread | None
    probe: Spread | None
    devices: dict[str, float]
    timeline: list[dict[str, int]]
    spectrum: dict[str, list[list[float]]]
    histograms: dict[str, str]
    spans: list[Span]
    watched: Watched
    thresholds: list[Threshold]
    passed: bool


def spread(histogram: HdrHistogram | None) -> Spread | None:
    """A histogram's figures in milliseconds; None where nothing was measured."""
    if histogram is None or not histogram.total_count:
        return None
    found = {f"p{_name(rank)}": histogram.get_value_at_percentile(rank) / 1000 for rank in PERCENTILES}
    return Spread(
        count=histogram.total_count,
        mean=histogram.get_mean_value() / 1000,
        min=histogram.get_min_value() / 1000,
        max=histogram.get_max_value() / 1000,
        percentiles=found,
    )


def _name(rank: float) -> str:
    return f"{rank:g}"


def environment() -> dict[str, Any]:
    """This machine, where the load came from."""
    return {
        "vrambroker": VERSION,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": os.cpu_count() or 0,
        "load_average": list(os.getloadavg()),
    }


def report(
    scenario: Scenario,
    tally: Tally,
    *,
    started_at: datetime,
    environment: dict[str, Any],
    ended: str,
    watched: Watched,
    seconds: float,
) -> Report:
    """The document of a run that went so many seconds beyond its warm-up."""
    actions = sorted(name for name in tally.counts if name != UNASKED and not name.startswith(STAGE))
    commands = {action: _command(tally, action) for action in actions}
    stages = [_stage(tally, scenario, number) for number in range(len(scenario.stages))]
    offered, completed, good = (sum(tally.counts[action][what] for action in actions) for what in COUNTED)
    outcomes = {outcome: sum(tally.counts[action][outcome] for action in actions) for outcome in OUTCOMES}
    lag, probe = spread(tally.histogram("lag")), spread(tally.histogram("probe"))
    figures = _figures(commands, outcomes, offered, completed / seconds, good / seconds, lag=lag, probe=probe)
    thresholds = [_threshold(text, figures) for text in scenario.thresholds]
    answered = sum(tally.devices.values())
    return Report(
        started_at=started_at,
        environment=environment,
        scenario=scenario,
        ended=ended,
        seconds=seconds,
        offered_rate=offered / seconds,
        achieved_rate=completed / seconds,
        good_rate=good / seconds,
        outcomes=outcomes,
        errors=dict(tally.errors.most_common()),
        examples=tally.examples,
        extra_answers=sum(tally.counts.get(UNASKED, {}).values()),
        commands=commands,
        stages=stages,
        knee=knee(stages),
        lag=lag,
        probe=probe,
        devices={device: count / answered for device, count in sorted(tally.devices.items())},
        timeline=[{"second": second, **tally.seconds[second]} for second in sorted(tally.seconds)],
        spectrum={name: _spectrum(tally.histogram(name)) for name in tally.names() if name.endswith(SHOWN)},
        histograms={name: _encoded(tally.histogram(name)) for name in tally.names()},
        spans=sorted(tally.spans, key=lambda span: span.began),
        watched=watched,
        thresholds=thresholds,
        passed=all(one.passed for one in thresholds),
    )


COUNTED = ("offered", "completed", "good")
SHOWN = (".latency", ".service", "probe", "lag")
"""Ends of names of the histograms whose percentile spectrum is kept beside them."""


def _command(tally: Tally, action: str) -> Command:
    counts = tally.counts[action]
    measured = {name: spread(tally.histogram(f"{action}.{name}")) for name in MEASURED}
    completed = counts["completed"]
    return Command(
        outcomes={outcome: counts[outcome] for outcome in OUTCOMES},
        good=counts["good"],
        loads=counts["loads"],
        hit_rate=1 - counts["loads"] / completed if completed and brings_models(action) else None,
        **measured,
    )


def brings_models(action: str) -> bool:
    """Whether commands of this action are about a model on a device, which may have to be brought there first."""
    return action in ALIASES and ACTIONS[ALIASES[action]].lane is Lane.DEVICE


MEASURED = ("latency", "service", "queue", "load", "compute", "transport")


def _stage(tally: Tally, scenario: Scenario, number: int) -> StageReport:
    stage = scenario.stages[number]
    counts: Mapping[str, int] = tally.counts.get(f"{STAGE}{number}", {})
    outcomes = {outcome: counts.get(outcome, 0) for outcome in OUTCOMES}
    offered, kept = counts.get("offered", 0), counts.get("kept", 0)
    return StageReport(
        seconds=stage.seconds,
        offered_rate=offered / stage.seconds,
        achieved_rate=kept / stage.seconds,
        good_rate=counts.get("good", 0) / stage.seconds,
        concurrency=stage.concurrency,
        outcomes=outcomes,
        latency=spread(tally.histogram(f"{STAGE}{number}.latency")),
        keeps_up=offered > 0 and kept + outcomes["cancelled"] >= KEPT * offered,
    )


def knee(stages: list[StageReport]) -> int | None:
    """The stage of the highest offered rate that the broker still keeps up with, while higher ones it does not: 95 % of
    what was offered is completed, with a 99th percentile of less than five times that of the calmest stage. None for
    less than three open stages, and where all of them, or none, are so."""
    open_ones = [index for index, stage in enumerate(stages) if not stage.concurrency and stage.latency is not None]
    if len(open_ones) < 3:
        return None
    tails = {index: found.percentiles["p99"] for index in open_ones if (found := stages[index].latency) is not None}
    calmest = min(tails.values())
    good = [index for index in open_ones if stages[index].keeps_up and tails[index] <= STEEP * calmest]
    if not good or len(good) == len(open_ones):
        return None
    return max(good, key=lambda index: stages[index].offered_rate)


def _spectrum(histogram: HdrHistogram | None) -> list[list[float]]:
    if histogram is None:
        return []
    return [[float(rank), histogram.get_value_at_percentile(rank) / 1000] for rank in SPECTRUM]


def _encoded(histogram: HdrHistogram | None) -> str:
    return "" if histogram is None else histogram.encode().decode()


def _figures(
    commands: dict[str, Command],
    outcomes: dict[str, int],
    offered: int,
    achieved: float,
    good: float,
    *,
    lag: Spread | None,
    probe: Spread | None,
) -> dict[str, float]:
    """What thresholds can be about: times in ms, shares in percent, rates a second."""
    figures = {"achieved": achieved, "goodput": good}
    figures |= {outcome: 100.0 * count / max(1, offered) for outcome, count in outcomes.items()}
    named = {f"{action}.{name}": getattr(found, name) for action, found in commands.items() for name in MEASURED}
    for prefix, found in {**named, "lag": lag, "probe": probe}.items():
        if found is not None:
            figures |= {f"{prefix}.{rank}": value for rank, value in found.percentiles.items()}
            figures |= {f"{prefix}.max": found.max, f"{prefix}.mean": found.mean}
    for action, found in commands.items():
        if found.latency is not None:
            figures |= {f"{action}.{rank}": value for rank, value in found.latency.percentiles.items()}
        if found.hit_rate is not None:
            figures[f"{action}.hits"] = 100.0 * found.hit_rate
    tails = [found.latency for found in commands.values() if found.latency is not None]
    for rank in (f"p{_name(one)}" for one in PERCENTILES):
        if tails:
            figures[rank] = max(tail.percentiles[rank] for tail in tails)
    return figures


def parse(text: str) -> tuple[str, str, float]:
    """A threshold such as `generate.p99<500ms`, `failed<1%`, `achieved>=20/s`: its figure, comparison and bound, in the
    figure's own unit. Raises ScenarioError."""
    match = THRESHOLD.fullmatch(text)
    if match is None:
        raise ScenarioError(f"thresholds has '{text}': expected such as p99<500ms, generate.p99.9<2s, failed<1%")
    bound = float(match[3]) * (1000.0 if match[4] == "s" else 1.0)
    return match[1], match[2], bound


def check_thresholds(texts: Iterable[str]) -> None:
    """Raise ScenarioError for one that cannot be read."""
    for text in texts:
        parse(text)


def _threshold(text: str, figures: dict[str, float]) -> Threshold:
    """Whether a condition held; one about a figure that there is not did not."""
    name, comparison, bound = parse(text)
    value = figures.get(name)
    if value is None:
        return Threshold(text=text, value=float("nan"), passed=False)
    passed = {"<": value < bound, "<=": value <= bound, ">": value > bound, ">=": value >= bound}[comparison]
    return Threshold(text=text, value=value, passed=passed)
