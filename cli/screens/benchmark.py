"""A benchmark: what a picture takes, and a table of variants with bars of what they reach."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.bars import Bar
from cli.screens.grid import Grid, facts
from cli.screens.residency import brief, pressure_row, timing_text
from cli.units import duration, size
from protocol.replies import BenchmarkModelReply

PHASES = (("encode_ms", "encode"), ("denoise_ms", "denoise"), ("decode_ms", "decode"), ("per_step_ms", "a step"))


def benchmark_view(reply: BenchmarkModelReply) -> RenderableType:
    """The whole answer on a screen."""
    told = reply.results.benchmark_configuration
    stats, images = reply.results.inference_time_stats, reply.results.throughput_stats
    spread = f"{duration(stats.minimum)} to {duration(stats.maximum)}, deviation {duration(stats.standard_deviation)}"
    rows: list[tuple[str, RenderableType]] = [
        ("a run", f"{duration(stats.average)} on average, {spread}"),
        ("95 %, 99 %", f"{duration(stats.percentile95)}, {duration(stats.percentile99)}"),
        ("images", f"{images.average:.2f} a second, {images.peak:.2f} at the best, {images.sustained:.2f} sustained"),
        ("of which", _phases(reply.results.resource_utilization)),
        ("memory", _memory(reply)),
        ("use", _use(reply.results.resource_utilization)),
        ("pictures", "all equal" if reply.results.quality_metrics.get("equal_pictures") == 1.0 else "NOT all equal"),
        ("score", f"{reply.results.overall_score:.1f} of 100"),
        ("times", timing_text(reply.timing)),
        pressure_row(reply.memory_pressure),
    ]
    view: list[RenderableType] = [
        Text.assemble(("measured ", "bold green"), (f"{reply.model_id} on {reply.device_id}", "bold")),
        Text(_what(told), style="dim"),
        facts(*rows),
    ]
    variants = [one for one in told.get("variants") or () if isinstance(one, dict)]
    return Group(*view, *([Text(), _variants(variants)] if variants else []))


def _what(told: Mapping[str, Any]) -> str:
    sides = f"{told.get('input_width')} x {told.get('input_height')}"
    batch, steps, runs = told.get("batch_size"), told.get("inference_steps"), told.get("benchmark_runs")
    kind, precision = brief(told.get("benchmark_type")), brief(told.get("precision"))
    return f"{kind}: {runs} runs of {batch} x {sides}, {steps} steps, {precision}"


def _phases(found: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {duration(found[key])}" for key, name in PHASES if key in found) or "-"


def _memory(reply: BenchmarkModelReply) -> str:
    if "memory_peak" in reply.not_measured:
        return reply.not_measured["memory_peak"]
    return f"{size(reply.memory_peak)} at the peak, {size(reply.memory_avg)} on average"


def _use(found: Mapping[str, float]) -> str:
    words = [f"{name} {found[name]:.0%}" for name in ("device", "cpu", "memory") if name in found]
    if "power_w" in found:
        words.append(f"{found['power_w']:.0f} W")
    if "energy_per_image_j" in found:
        words.append(f"{found['energy_per_image_j']:.1f} J an image")
    return ", ".join(words) or "-"


def _variants(variants: list[dict[str, Any]]) -> RenderableType:
    made = Grid("SIZE", "BATCH", "A RUN", "IMAGES/S", "", "PEAK", spare=("", "PEAK"))
    best = max((float(one.get("throughput") or 0.0) for one in variants), default=0.0)
    for one in variants:
        sides, batch = Text(f"{one.get('width')}x{one.get('height')}"), Text(str(one.get("batch_size")))
        reached = one.get("throughput")
        if reached is None:
            made.add_row(sides, batch, Text("-"), Text("-"), Text(brief(one.get("error"))), Text("-"))
            continue
        peak = one.get("memory_peak")
        shown = Text("-" if peak is None else size(int(peak)))
        took = Text(duration(float(one.get("average_ms") or 0.0)))
        made.add_row(sides, batch, took, Text(f"{float(reached):.2f}"), Bar(float(reached), best), shown)
    return made
