"""What loads, unloads, pins and generations did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import UNSET, structs
from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.bars import level_text
from cli.screens.grid import Grid, facts
from cli.units import duration, size
from protocol.replies import (
    AcceptedReply,
    GenerateReply,
    LoadModelReply,
    OptionOutcome,
    PinModelReply,
    Timing,
    UnloadModelReply,
)
from protocol.telemetry import MemoryPressure


def headline(mark: str, text: str) -> Text:
    """The first line of an outcome."""
    return Text.assemble((mark, "bold green"), " ", (text, "bold"))


def timing_text(timing: Timing) -> str:
    """The phases that ran, in the reply's order."""
    phases = ((name.removesuffix("_ms"), value) for name, value in structs.asdict(timing).items() if value is not UNSET)
    return ", ".join(f"{name.replace('_', ' ')} {duration(value)}" for name, value in phases)


def pressure_row(pressure: MemoryPressure | None) -> tuple[str, RenderableType]:
    """The device's pressure after a command."""
    return "pressure", level_text(pressure)


def load_view(reply: LoadModelReply) -> RenderableType:
    """A load: from where, how large, how long, and what became of each option."""
    source = f"from {reply.cache.source.value}"
    if reply.cache.page_cache_ratio is not None:
        source += f", {reply.cache.page_cache_ratio:.0%} of the file in the page cache"
    held = f"{size(reply.memory_usage)} on the device, {size(reply.memory_added)} of them new"
    view: list[RenderableType] = [
        headline("loaded", f"{reply.model_id} on {reply.device_id}"),
        facts(
            ("source", source),
            ("memory", held),
            ("times", timing_text(reply.timing)),
            pressure_row(reply.memory_pressure),
        ),
    ]
    return Group(*view, *options_view(reply.options))


def options_view(options: list[OptionOutcome]) -> list[RenderableType]:
    """Each configuration flag: asked, applied or not, and why."""
    if not options:
        return []
    made = Grid("OPTION", "REQUESTED", "APPLIED", "REASON / EVIDENCE", loose=("REASON / EVIDENCE",))
    for option in options:
        applied = Text("yes", style="green") if option.applied else Text("no", style="yellow")
        evidence = ", ".join(f"{key} {brief(value)}" for key, value in (option.evidence or {}).items())
        why = "; ".join(part for part in (option.reason or "", evidence) if part)
        made.add_row(Text(option.option), Text(brief(option.requested)), applied, Text(why))
    return [Text(), made]


def brief(value: Any) -> str:
    """A value that JSON can hold, in few characters."""
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "-"}[value]
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unload_view(reply: UnloadModelReply) -> RenderableType:
    """An unload: what was measured to be free afterwards; one that found nothing says so."""
    if not (reply.memory_freed or reply.ram_freed):
        return headline("nothing freed", reply.message or f"{reply.model_id} was not held")
    return Group(
        headline("unloaded", f"{reply.model_id} from {reply.device_id or 'no device'}"),
        facts(
            ("VRAM freed", size(reply.memory_freed)),
            ("RAM freed", size(reply.ram_freed)),
            ("times", timing_text(reply.timing)),
            pressure_row(reply.memory_pressure),
        ),
    )


def pin_view(reply: PinModelReply) -> RenderableType:
    """A pin as it stands."""
    where = f"{reply.model_id} on {reply.device_id or 'no device'}"
    return headline("pinned" if reply.pinned else "not pinned", where)


def accepted_view(reply: AcceptedReply) -> RenderableType:
    """A command that is not waited for."""
    return headline("accepted", reply.request_id or "")


def generate_view(reply: GenerateReply, files: list[Path]) -> RenderableType:
    """Images: the files, the seed that makes them again, and where the time went."""
    return Group(
        *(Text(str(file), style="bold", no_wrap=True, overflow="ignore") for file in files),
        facts(
            ("seed", str(reply.seed)),
            ("device", reply.device_id),
            ("steps", str(reply.steps_done)),
            ("times", timing_text(reply.timing)),
            pressure_row(reply.memory_pressure),
        ),
    )
