"""An optimisation: before and after, and what became of each step."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.grid import Grid, facts
from cli.screens.residency import brief, headline, pressure_row, timing_text
from cli.units import duration, size
from protocol.replies import OptimizeModelReply, OptionOutcome
from settings.printable import printable


def optimization_view(reply: OptimizeModelReply, pictures: Path | None) -> RenderableType:
    """The whole answer on a screen."""
    results, told = reply.results, reply.results.detailed_metrics
    likeness = f"SSIM {told.get('ssim', 0.0):.4f}, PSNR {told.get('psnr_db', 0.0):.1f} dB"
    rows: list[tuple[str, RenderableType]] = [
        ("kept", ", ".join(results.optimizations_applied) or "nothing: no step was worth what it cost"),
        ("pictures", f"{likeness}, latents {told.get('latent_distance', 0.0):.4f} apart"),
        ("freed", size(reply.memory_freed) if reply.memory_freed >= 0 else f"- {size(-reply.memory_freed)}"),
        ("times", timing_text(reply.timing)),
        pressure_row(reply.memory_pressure),
    ]
    if reply.optimized_model is not None:
        rows.insert(1, ("saved as", reply.optimized_model.id))
    if pictures is not None:
        rows.insert(1, ("drawn", printable(str(pictures))))
    name = f"{reply.model_id} on {reply.device_id}"
    return Group(headline("optimised", name), facts(*rows), Text(), _change(reply), *_steps(reply.options))


def _change(reply: OptimizeModelReply) -> RenderableType:
    told, results = reply.results.detailed_metrics, reply.results
    made = Grid("", "BEFORE", "AFTER", "LESS")
    rows = (
        (
            "weights",
            size(results.original_size_bytes),
            size(results.optimized_size_bytes),
            results.size_reduction_percentage,
        ),
        (
            "peak",
            size(int(told.get("peak_bytes_before", 0.0))),
            size(int(told.get("peak_bytes_after", 0.0))),
            told.get("peak_reduction_percentage", 0.0),
        ),
        (
            "a step",
            duration(told.get("step_ms_before", 0.0)),
            duration(told.get("step_ms_after", 0.0)),
            results.estimated_performance_improvement,
        ),
    )
    for name, before, after, less in rows:
        colour = "green" if less > 0 else "yellow" if less < 0 else "dim"
        made.add_row(Text(name), Text(before), Text(after), Text(f"{less:.1f} %", style=colour))
    return made


def _steps(options: list[OptionOutcome]) -> list[RenderableType]:
    if not options:
        return []
    made = Grid("STEP", "KEPT", "A STEP", "PEAK", "SSIM", "WHY NOT", loose=("WHY NOT",))
    for option in options:
        found = option.evidence or {}
        kept = Text("yes", style="green") if option.applied else Text("no", style="yellow")
        name = option.option if option.requested is True else f"{option.option} {brief(option.requested)}"
        took = found.get("step_ms_after")
        peak, like = found.get("peak_bytes_after"), found.get("ssim")
        made.add_row(
            Text(name.removeprefix("enable_")),
            kept,
            Text("-" if took is None else duration(float(took))),
            Text("-" if peak is None else size(int(peak))),
            Text("-" if like is None else f"{float(like):.4f}"),
            Text(option.reason or ""),
        )
    return [Text(), made]
