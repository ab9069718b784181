"""Tallies add up, thresholds hold or not, the knee is where it is, a page has all of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen import report as reports
from loadgen.comparing import compare, read_report
from loadgen.pages import page
from loadgen.report import Report, StageReport, Watched, knee, parse, spread
from loadgen.scenario import Kind, Scenario, ScenarioError, Stage, checked
from loadgen.tally import MOST_SPANS, Packed, Span, Tally


def filled(count: int = 100, *, seconds: float = 0.001) -> Tally:
    """A tally of so many commands, the n-th of which took n times so long."""
    tally = Tally()
    for number in range(1, count + 1):
        tally.count("generate", "offered")
        tally.count("stage 0", "offered")
        for name in ("generate", "stage 0"):
            tally.count(name, "completed")
        tally.count("stage 0", "kept")
        tally.measure("generate.latency", number * seconds)
        tally.measure("stage 0.latency", number * seconds)
        tally.at_second(number % 3, "offered")
        tally.devices["cpu:0"] += 1
    tally.count("generate", "good", count // 2)
    tally.count("generate", "loads", count // 4)
    tally.span(Span("cpu:0", 0.0, 1.0, 0.5))
    return tally


def made(tally: Tally, **fields: Any) -> Report:
    scenario = checked(
        Scenario(stages=[Stage(seconds=10.0, rate=10.0)], mix=[Kind(action="generate")], models=["m"], **fields)
    )
    return reports.report(
        scenario,
        tally,
        started_at=datetime.now(UTC),
        environment=reports.environment(),
        ended="completed",
        watched=Watched(),
        seconds=10.0,
    )


def test_tallies_of_two_processes_are_that_of_one() -> None:
    once = filled()
    travelled = msgspec.msgpack.decode(msgspec.msgpack.encode(once.pack()), type=Packed)
    both = Tally()
    both.add(travelled)
    both.add(travelled)
    assert both.counts["generate"]["completed"] == 200 and both.seconds[0]["offered"] == 66
    one, two = spread(once.histogram("generate.latency")), spread(both.histogram("generate.latency"))
    assert one is not None and two is not None
    assert two.count == 2 * one.count and two.percentiles == one.percentiles


def test_percentiles_are_within_a_thousandth() -> None:
    found = spread(filled(1000).histogram("generate.latency"))
    assert found is not None
    assert found.percentiles["p50"] == pytest.approx(500, rel=0.002)
    assert found.percentiles["p99.9"] == pytest.approx(999, rel=0.002)
    assert spread(None) is None


def test_spans_are_bounded() -> None:
    tally = Tally()
    for number in range(MOST_SPANS + 5):
        tally.span(Span("cpu:0", number, number + 1.0, 0.0))
    assert len(tally.spans) == MOST_SPANS


def test_a_report_has_rates_shares_and_hits() -> None:
    found = made(filled())
    assert (found.offered_rate, found.achieved_rate, found.good_rate) == (10.0, 10.0, 5.0)
    assert found.commands["generate"].hit_rate == 0.75 and found.devices == {"cpu:0": 1.0}
    assert found.outcomes["completed"] == 100 and found.stages[0].keeps_up
    assert msgspec.json.decode(msgspec.json.encode(found), type=Report) == found


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("p99<100ms", True),
        ("p99<98ms", False),
        ("generate.p50<=51ms", True),
        ("generate.latency.max<0.2s", True),
        ("failed<1%", True),
        ("achieved>=10/s", True),
        ("achieved>10", False),
        ("generate.hits>70%", True),
        ("load_model.p99<1s", False),
    ],
)
def test_a_threshold_holds_or_not(text: str, passed: bool) -> None:
    found = made(filled(), thresholds=[text])
    assert (found.thresholds[0].passed, found.passed) == (passed, passed)


@pytest.mark.parametrize("text", ["", "p99", "p99<", "p99<fast", "p99=1ms", "<5ms"])
def test_a_threshold_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ScenarioError, match="thresholds has"):
        parse(text)


def stage(rate: float, p99: float, *, keeps_up: bool = True) -> StageReport:
    tally = Tally()
    tally.measure("x", p99 / 1000)
    return StageReport(
        seconds=1.0,
        offered_rate=rate,
        achieved_rate=rate,
        good_rate=rate,
        concurrency=0,
        outcomes={},
        latency=spread(tally.histogram("x")),
        keeps_up=keeps_up,
    )


def test_the_knee_is_the_highest_rate_before_latency_runs_away() -> None:
    assert knee([stage(10, 5), stage(20, 6), stage(40, 20), stage(80, 400)]) == 2
    assert knee([stage(40, 20), stage(10, 5), stage(80, 21, keeps_up=False)]) == 0
    assert knee([stage(10, 5), stage(20, 6), stage(40, 7)]) is None, "none of them is past it"
    assert knee([stage(10, 5), stage(20, 600)]) is None, "two are no line"


def test_a_page_needs_nothing_else_and_shows_words_as_they_are() -> None:
    tally = filled()
    tally.fail("INTERNAL_ERROR", "<script>alert(1)</script>")
    text = page(made(tally, thresholds=["p99<1ms"]))
    assert text.count("<svg") >= 3
    assert set(re.findall(r"(?:src|href)=.(\w+:)?//", text)) == set()
    assert "<script>" not in text and "&lt;script&gt;" in text
    assert "broken" in text and "generate latency" in text


def test_two_reports_are_compared_figure_by_figure(tmp_path: Path) -> None:
    before, after = made(filled()), made(filled(seconds=0.002))
    changes = {change.name: change for change in compare(before, after)}
    assert changes["generate latency p50, ms"].better is False
    assert changes["generate latency p50, ms"].ratio == pytest.approx(2.0, rel=0.01)
    assert changes["completed a second"].better is None and changes["failed"].ratio is None
    file = tmp_path / "report.json"
    file.write_bytes(msgspec.json.encode(before))
    assert read_report(file) == before
    file.write_bytes(msgspec.json.encode(msgspec.structs.replace(before, schema=99)))
    with pytest.raises(ScenarioError, match="schema 99"):
        read_report(file)
    file.write_text("{}")
    with pytest.raises(ScenarioError, match="is no load report"):
        read_report(file)
