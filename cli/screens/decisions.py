"""What `plan` and `explain` show: candidates with what their scores are made of."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.grid import Grid, facts
from cli.screens.residency import headline
from cli.units import duration, size
from protocol.replies import ExplainReply, PlanReply
from protocol.replies.broker import Candidate, PlannedEviction

TERMS = ("queue", "load", "eviction", "replication", "run")


def plan_view(reply: PlanReply) -> RenderableType:
    """A load that is only thought through."""
    rows: list[tuple[str, RenderableType]] = [
        ("device", reply.device_id or "-"),
        ("needs", f"{size(reply.bytes_needed)}"),
        ("peak", f"{size(reply.load_peak_bytes)} while it loads, {size(reply.run_peak_bytes)} while it draws"),
        ("done in", duration(reply.estimated_ms)),
        ("evicts", evictions_text(reply.evictions)),
    ]
    mark = "fits" if reply.fits else "does not fit"
    return Group(headline(mark, reply.model_id), facts(*rows), candidates_table(reply.candidates, reply.device_id))


def explain_view(reply: ExplainReply) -> RenderableType:
    """A decision that was taken."""
    waits = ", ".join(f"{wait.reason} {duration(wait.ms)}" for wait in reply.waits)
    rows: list[tuple[str, RenderableType]] = [
        ("waits", waits or "-"),
        ("evicted", evictions_text(reply.evictions)),
        ("passed", f"{reply.passes} times"),
    ]
    if reply.chosen is None:
        return Text(reply.message, style="dim")
    where = headline("went to", reply.chosen)
    return Group(where, facts(*rows), candidates_table(reply.candidates, reply.chosen))


def evictions_text(evictions: Sequence[PlannedEviction]) -> str:
    """Who leaves, with the bytes that it frees."""
    return ", ".join(f"{eviction.model_id} ({size(eviction.bytes)})" for eviction in evictions) or "nothing"


def candidates_table(candidates: Sequence[Candidate], chosen: str) -> RenderableType:
    """Devices, the chosen one in bold; milliseconds of each term, and why one was left out."""
    names = [name.upper() for name in TERMS]
    made = Grid("DEVICE", "SCORE", *names, "NOTE", right=("SCORE", *names), loose=("NOTE",))
    for candidate in candidates:
        style = "bold" if candidate.device_id == chosen else ""
        score = "-" if candidate.score is None else duration(candidate.score)
        terms = (candidate.terms.get(f"{name}_ms") for name in TERMS)
        shown = ("-" if ms is None else duration(ms) for ms in terms)
        made.add_row(Text(candidate.device_id, style=style), score, *shown, Text(candidate.excluded_because or ""))
    return made
