"""Events as lines."""

from __future__ import annotations

from rich.text import Text

from cli.units import duration, size
from client.events import Published
from protocol.events import CatalogEvent, Event, JobEvent, ModelEvent, QueueEvent, TelemetryEvent, WorkerEvent


def event_line(published: Published) -> Text:
    """One event: its time, its topic, what it says, and what was lost before it."""
    line = Text(published.event.time.astimezone().strftime("%H:%M:%S.%f")[:-3], style="dim")
    line += Text.assemble(" ", (published.topic, "bold"), " ", summary(published.event))
    if published.missed:
        line.append(f" ({published.missed} missed before)", style="yellow")
    if published.restarted:
        line.append(" (the broker restarted)", style="yellow")
    return line


def summary(event: Event) -> str:
    """What an event says, without its topic."""
    match event:
        case TelemetryEvent():
            memory = f"{size(event.memory.used)} of {size(event.memory.total)}"
            return f"{memory}, pressure {event.memory_pressure.level.value} {event.memory_pressure.pressure:.0%}"
        case WorkerEvent():
            worker = f"{event.state.value}, pid {event.pid or '-'}, generation {event.generation}"
            return f"{worker}: {event.reason}" if event.reason else worker
        case ModelEvent():
            return model_summary(event)
        case JobEvent():
            return job_summary(event)
        case QueueEvent():
            return f"{event.depth} queued, {event.in_flight} in flight, oldest {duration(event.oldest_ms)}"
        case CatalogEvent():
            return f"{event.model_id} {event.change}, revision {event.revision}"
        case _:
            return ""


def model_summary(event: ModelEvent) -> str:
    """A move, or how far it has come."""
    moved = f"{event.from_tier.value} to {event.tier.value}, {size(event.bytes)}, {event.reason}"
    if event.stage is None:
        return moved
    done = f" {size(event.bytes_done or 0)} of {size(event.bytes_total)}" if event.bytes_total else ""
    return f"{event.stage}{done}"


def job_summary(event: JobEvent) -> str:
    """A command's state, its step or its end."""
    parts = [event.action, event.job_state.value, event.device_id or "", event.model_id]
    if event.progress is not None and event.progress.step is not None:
        parts.append(f"step {event.progress.step}/{event.progress.steps}")
    if event.error is not None:
        parts.append(f"{event.error.code.value}: {event.error.message}")
    elif event.success:
        parts.append("well")
    return " ".join(part for part in parts if part)
