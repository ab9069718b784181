"""A load while it goes on, what it came to, and two of them beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.bars import Bar
from cli.screens.grid import Grid, facts
from cli.screens.residency import headline
from cli.units import duration
from loadgen.comparing import Change
from loadgen.messages import Progress
from loadgen.report import Report, Spread
from loadgen.scenario import Scenario, Stage

RANKS = ("p50", "p90", "p99", "p99.9")
PHASES = ("latency", "queue", "load", "compute", "transport")


def live_view(scenario: Scenario, standings: Sequence[Progress]) -> RenderableType:
    """How a run goes: where it is, what was sent and answered so far, by all processes together."""
    elapsed = max(one.elapsed for one in standings)
    number = standings[0].stage
    stage = "warm-up"
    if number >= 0:
        stage = f"stage {number + 1} of {len(scenario.stages)}, {offered(scenario.stages[number])}"
    gone = min(elapsed, scenario.seconds)
    sent, done, failed, waiting = (
        sum(getattr(one, name) for one in standings) for name in ("sent", "completed", "failed", "in_flight")
    )
    rows: list[tuple[str, RenderableType]] = [
        ("at", Text(f"{stage}, {duration(gone * 1000)} of {duration(scenario.seconds * 1000)}")),
        ("", Bar(gone, scenario.seconds, 40)),
        ("sent", str(sent)),
        ("completed", Text(str(done), style="green")),
        ("failed", Text(str(failed), style="red" if failed else "dim")),
        ("under way", str(waiting)),
        ("lag", duration(max(one.lag_ms for one in standings))),
    ]
    return facts(*rows)


def offered(stage: Stage) -> str:
    """What a stage asks for."""
    if not stage.is_open:
        return f"{stage.concurrency} under way"
    return f"{stage.rate:g}/s" + (f" to {stage.to_rate:g}/s" if stage.to_rate is not None else "")


def report_view(report: Report, folder: Path | None) -> RenderableType:
    """What a run came to."""
    outcomes = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in report.outcomes.items() if count)
    rate = f"{report.offered_rate:.1f}/s offered, {report.achieved_rate:.1f}/s completed, {report.good_rate:.1f}/s good"
    shares = ", ".join(f"{device} {share:.0%}" for device, share in report.devices.items())
    rows: list[tuple[str, RenderableType]] = [
        ("commands", outcomes or "none"),
        ("rate", rate),
        *((("devices", shares),) if shares else ()),
        ("ping beside", _brief(report.probe)),
        ("own lag", _brief(report.lag)),
        *(
            (code, Text(f"{count} x {report.examples.get(code, '')}", style="yellow"))
            for code, count in report.errors.items()
        ),
        *((("written", str(folder / "report.html")),) if folder is not None else ()),
    ]
    word = "passed" if report.passed else "failed"
    mark = headline(word, report.ended) if report.passed else Text.assemble((f"{word} ", "bold red"), report.ended)
    return Group(mark, facts(*rows), Text(), _commands(report), Text(), _stages(report), *_thresholds(report))


def _brief(found: Spread | None) -> str:
    if found is None:
        return "-"
    return (
        f"p50 {duration(found.percentiles['p50'])}, p99 {duration(found.percentiles['p99'])}, max {duration(found.max)}"
    )


def _commands(report: Report) -> RenderableType:
    ranks = [rank.upper() for rank in RANKS]
    made = Grid("COMMAND", "COUNT", *ranks, "MAX", right=("COUNT", "MAX", *ranks))
    for action, found in report.commands.items():
        for phase in PHASES:
            one: Spread | None = getattr(found, phase)
            if one is None:
                continue
            name = Text(action, style="bold") if phase == "latency" else Text(f"  {phase}", style="dim")
            tails = (duration(one.percentiles[rank]) for rank in RANKS)
            made.add_row(name, str(one.count), *tails, duration(one.max))
    return made


def _stages(report: Report) -> RenderableType:
    made = Grid(
        *("STAGE", "OFFERED", "COMPLETED", "GOOD", "P50", "P99", "KEEPS UP"),
        right=("OFFERED", "COMPLETED", "GOOD", "P50", "P99"),
        spare=("GOOD",),
    )
    for number, stage in enumerate(report.stages):
        asked = f"{stage.concurrency} under way" if stage.concurrency else f"{stage.offered_rate:.1f}/s"
        tails = ("-", "-")
        if stage.latency is not None:
            tails = (duration(stage.latency.percentiles["p50"]), duration(stage.latency.percentiles["p99"]))
        kept = Text("yes", style="green") if stage.keeps_up else Text("no", style="red")
        if number == report.knee:
            kept.append(", the knee", style="bold")
        made.add_row(str(number + 1), asked, f"{stage.achieved_rate:.1f}/s", f"{stage.good_rate:.1f}/s", *tails, kept)
    return made


def _thresholds(report: Report) -> list[RenderableType]:
    words = {True: ("held    ", "green"), False: ("broken  ", "bold red")}
    return [Text.assemble(words[one.passed], f"{one.text}: {one.value:.4g}") for one in report.thresholds]


def compared_view(changes: Sequence[Change]) -> RenderableType:
    """Figures before and after; what became worse stands out."""
    made = Grid("FIGURE", "BEFORE", "AFTER", "RATIO", right=("BEFORE", "AFTER", "RATIO"))
    for one in changes:
        style = {True: "green", False: "red", None: "dim"}[one.better]
        ratio = "-" if one.ratio is None else f"{one.ratio:.2f}"
        made.add_row(one.name, f"{one.before:.4g}", f"{one.after:.4g}", Text(ratio, style=style))
    return made
