"""A report as a page that needs nothing else: tables, and plots as SVG within it."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Iterable, Sequence

import matplotlib as mpl

from loadgen.report import Report, Spread, StageReport

mpl.use("svg")

import matplotlib.pyplot as plt

COLOURS = ("#2563eb", "#d97706", "#059669", "#dc2626", "#7c3aed", "#0891b2", "#65a30d", "#db2777")
RUN, LOAD = "#2563eb", "#d97706"
METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
NINES = (0, 50, 90, 99, 99.9, 99.99)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #1f2937; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; margin: .6rem 0; } th, td { padding: .25rem .8rem; text-align: right; }
th { border-bottom: 1px solid #9ca3af; font-weight: 600; } td:first-child, th:first-child { text-align: left; }
.passed { color: #059669; font-weight: 600; } .failed { color: #dc2626; font-weight: 600; }
svg { max-width: 100%; height: auto; } p.note { color: #6b7280; }
"""


def page(report: Report) -> str:
    """The whole page."""
    parts = [
        _head(report),
        _section("Verdict", _verdict(report)),
        _section("Commands", _commands(report)),
        _section("Stages", _stages(report) + _plot(report, _knee, len(report.stages) > 1)),
        _section("Percentiles", _plot(report, _spectrum)),
        _section("The run, second by second", _plot(report, _timeline)),
        _section("Devices: loading, working, idle", _plot(report, _gantt, bool(report.spans))),
        _section("Memory of the devices", _plot(report, _memory, bool(report.watched.samples))),
        _section("What it was", _environment(report)),
    ]
    body = "\n".join(part for part in parts if part)
    head = f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>Load report</title><style>{STYLE}</style>'
    return f"{head}\n{body}\n</html>\n"


def _section(title: str, body: str) -> str:
    return f"<h2>{html.escape(title)}</h2>\n{body}" if body else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    heads = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    lines = ("".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) for row in rows)
    return f"<table><tr>{heads}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


def _head(report: Report) -> str:
    rate = f"{report.offered_rate:.1f} commands a second offered, {report.achieved_rate:.1f} completed"
    good = f"{report.good_rate:.1f} of them within {report.scenario.slo_seconds:g} s"
    when = report.started_at.strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"<h1>Load report</h1><p>{when}, {report.seconds:.1f} s, {report.ended}: {rate}, {good}.</p>"


def _verdict(report: Report) -> str:
    rows = [(one.text, f"{one.value:.4g}", "held" if one.passed else "broken") for one in report.thresholds]
    word = '<p class="passed">passed</p>' if report.passed else '<p class="failed">failed</p>'
    counts = _table(list(report.outcomes), [list(report.outcomes.values())])
    errors = [(code, count, report.examples.get(code, "")) for code, count in report.errors.items()]
    told = _table(("error", "count", "such as"), errors) if errors else ""
    return (word + _table(("threshold", "value", ""), rows) if rows else "") + counts + told


def _ms(found: Spread | None, rank: str) -> str:
    return "-" if found is None else f"{found.percentiles[rank]:.2f}"


def _commands(report: Report) -> str:
    ranks = ("p50", "p90", "p99", "p99.9")
    rows = []
    for action, found in report.commands.items():
        for measure in ("latency", "service", "queue", "load", "compute", "transport"):
            one: Spread | None = getattr(found, measure)
            if one is not None:
                top = f"{one.max:.2f}"
                rows.append((f"{action} {measure}", one.count, *(_ms(one, rank) for rank in ranks), top))
    rows += [(name, one.count, *(_ms(one, rank) for rank in ranks), f"{one.max:.2f}") for name, one in _own(report)]
    hits = ", ".join(
        f"{action} {found.hit_rate:.1%}" for action, found in report.commands.items() if found.hit_rate is not None
    )
    note = (
        "Milliseconds. Latency counts from when a command was meant to be sent, service from when it was: where that "
        f"is less, clients were held up before they could send. Without a load: {hits or '-'}."
    )
    return _table(("", "count", *ranks, "max"), rows) + f'<p class="note">{html.escape(note)}</p>'


def _own(report: Report) -> list[tuple[str, Spread]]:
    found = (("ping beside it", report.probe), ("the generator's own lag", report.lag))
    return [(name, one) for name, one in found if one is not None]


def _stages(report: Report) -> str:
    rows = [
        (
            f"{number}{' (knee)' if number == report.knee else ''}",
            f"{stage.seconds:g} s",
            stage.concurrency or f"{stage.offered_rate:.1f}/s",
            f"{stage.achieved_rate:.1f}/s",
            f"{stage.good_rate:.1f}/s",
            _ms(stage.latency, "p50"),
            _ms(stage.latency, "p99"),
            "yes" if stage.keeps_up else "no",
        )
        for number, stage in enumerate(report.stages)
    ]
    return _table(("stage", "for", "offered", "completed", "good", "p50 ms", "p99 ms", "keeps up"), rows)


def _environment(report: Report) -> str:
    rows = [(key, value) for key, value in report.environment.items() if key != "broker"]
    rows += [(f"broker {key}", value) for key, value in report.environment.get("broker", {}).items()]
    shares = ", ".join(f"{device} {share:.1%}" for device, share in report.devices.items())
    return _table(("", ""), [*rows, ("commands by device", shares or "-")])


def _plot(report: Report, draw: Callable[[Report, plt.Axes], None], wanted: bool = True) -> str:
    """One plot as SVG within the page."""
    if not wanted:
        return ""
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    draw(report, axes)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    drawn = METADATA.sub("", buffer.getvalue())
    return drawn[drawn.index("<svg") :]


def _knee(report: Report, axes: plt.Axes) -> None:
    """Percentiles of latency against what was offered."""
    stages = sorted((stage for stage in report.stages if stage.latency is not None), key=_offered)
    along = [_offered(stage) for stage in stages]
    for rank, colour in zip(("p50", "p95", "p99"), COLOURS, strict=False):
        heights = [stage.latency.percentiles[rank] for stage in stages if stage.latency is not None]
        axes.plot(along, heights, marker="o", color=colour, label=rank)
    if report.knee is not None:
        at = _offered(report.stages[report.knee])
        axes.axvline(at, color="#6b7280", linestyle="--")
        axes.annotate("knee", (at, axes.get_ylim()[1]), ha="right", va="top", rotation=90, color="#6b7280")
    axes.set_yscale("log")
    axes.set_xlabel("offered: commands a second, or under way")
    axes.set_ylabel("latency, ms")
    axes.legend(frameon=False)


def _offered(stage: StageReport) -> float:
    return float(stage.concurrency) or stage.offered_rate


def _spectrum(report: Report, axes: plt.Axes) -> None:
    """Latency by percentile, the far end stretched as HDR histograms are shown."""
    shown = sorted((name, points) for name, points in report.spectrum.items() if not name.startswith("stage "))
    for index, (name, points) in enumerate(shown):
        kept = [(1 / (1 - rank / 100), ms) for rank, ms in points if rank < 100]
        style = ":" if name.endswith(".service") else "-"
        along, heights = [one for one, _ in kept], [max(ms, 0.001) for _, ms in kept]
        axes.plot(along, heights, linestyle=style, color=COLOURS[index % len(COLOURS)], label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks([1 / (1 - rank / 100) for rank in NINES], [f"{rank:g} %" for rank in NINES])
    axes.minorticks_off()
    axes.set_ylabel("ms")
    axes.legend(frameon=False, fontsize="small")


def _timeline(report: Report, axes: plt.Axes) -> None:
    """Offered and completed in each second."""
    seconds = [one["second"] for one in report.timeline]
    for name, colour in zip(("offered", "completed", "failed", "timed_out", "cancelled"), COLOURS, strict=False):
        heights = [one.get(name, 0) for one in report.timeline]
        if any(heights):
            axes.plot(seconds, heights, color=colour, label=name.replace("_", " "), drawstyle="steps-mid")
    axes.set_xlabel("seconds")
    axes.set_ylabel("commands")
    axes.legend(frameon=False)


def _gantt(report: Report, axes: plt.Axes) -> None:
    """Each device's work as bars over time; the part that brought a model is of another colour."""
    devices = sorted({span.device_id for span in report.spans})
    for row, device in enumerate(devices):
        spans = [span for span in report.spans if span.device_id == device]
        axes.broken_barh([(one.began, one.ended - one.began) for one in spans], (row - 0.35, 0.7), color=RUN)
        loads = [(one.began, one.load_seconds) for one in spans if one.load_seconds]
        axes.broken_barh(loads, (row - 0.35, 0.7), color=LOAD)
    axes.set_yticks(range(len(devices)), devices)
    axes.set_xlabel("seconds; blue works, orange loads")


def _memory(report: Report, axes: plt.Axes) -> None:
    """Bytes in use on each device, and the moments at which models came."""
    for index, device in enumerate(sorted({sample.device_id for sample in report.watched.samples})):
        mine = [sample for sample in report.watched.samples if sample.device_id == device]
        along, heights = [one.seconds for one in mine], [one.used_bytes / (1 << 30) for one in mine]
        axes.plot(along, heights, color=COLOURS[index % len(COLOURS)], label=device, drawstyle="steps-post")
    if report.watched.swap_seconds:
        axes.plot(
            report.watched.swap_seconds,
            [0] * len(report.watched.swap_seconds),
            "|",
            color="#1f2937",
            label="a model came",
        )
    axes.set_xlabel("seconds")
    axes.set_ylabel("GiB in use")
    axes.legend(frameon=False, fontsize="small", ncols=4)
