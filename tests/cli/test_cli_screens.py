"""Every screen fits consoles of any width and shows words as they are."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import replies
from msgspec import structs
from rich.console import Console, RenderableType
from rich.text import Text

from cli.screens import bars, benchmark, catalogue, decisions, devices, events, optimization, residency, validation
from cli.session import failure_panel
from cli.terminal import Terminal, readable
from client.events import Published
from protocol.enums import DeviceState, JobState, PressureLevel, Tier
from protocol.events import CatalogEvent, Event, JobEvent, ModelEvent, QueueEvent, TelemetryEvent, WorkerEvent
from protocol.records import ModelUsageStats
from protocol.replies import ExplainReply, JobProgress, PlanReply
from protocol.replies.broker import Candidate, PlannedEviction, WaitRecord
from protocol.telemetry import DeviceMemory, HostMemory

WIDTHS = (20, 40, 80, 200)
HEAD: dict[str, Any] = {"seq": 3, "time": replies.NOW, "epoch": "e"}
EVENTS: tuple[Event, ...] = (
    TelemetryEvent(
        **HEAD,
        device_id="cpu:0",
        memory=DeviceMemory(total=8, used=4, free=4),
        memory_pressure=replies.PRESSURE,
        host=HostMemory(),
    ),
    WorkerEvent(**HEAD, device_id="cpu:0", state=DeviceState.LOST, generation=2, pid=None, restarts=1, reason="killed"),
    ModelEvent(
        **HEAD,
        device_id="cpu:0",
        model_id="m",
        tier=Tier.VRAM,
        from_tier=Tier.DISK,
        bytes=1024,
        reason="loaded",
        stage="read",
        bytes_done=512,
        bytes_total=1024,
    ),
    JobEvent(
        **HEAD,
        request_id="r",
        action="generate",
        job_state=JobState.RUNNING,
        progress=JobProgress(step=2, steps=9),
    ),
    QueueEvent(**HEAD, depth=3, in_flight=1, by_device={}, by_priority={}, oldest_ms=12.0),
    CatalogEvent(**HEAD, model_id="m", change="added", revision=1),
)


def drawn(view: RenderableType, width: int, encoding: str = "utf-8") -> str:
    """What a console of this width prints; no line of it is wider."""
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding, errors="strict") as file:
        Terminal(file=file, width=width, force_terminal=True, color_system=None).print(view)
        file.flush()
        text = raw.getvalue().decode(encoding)
    assert all(len(line) <= width for line in text.splitlines())
    return text


def reply(action: str) -> Any:
    return replies.of_action(action)


def every_screen(width: int, reply: Callable[[str], Any]) -> tuple[RenderableType, ...]:
    error = reply("load_model refused").error
    return (
        devices.ps_view(reply("list_devices")),
        devices.devices_view(reply("list_devices")),
        devices.status_view(reply("hello"), "tcp://127.0.0.1:5555", reply("get_vram_model_status")),
        catalogue.models_view(reply("list_models")),
        catalogue.rejected_view([]),
        catalogue.info_view(reply("get_model_info")),
        catalogue.scan_view(reply("scan_models")),
        catalogue.update_view(reply("update_metadata")),
        catalogue.search_view(reply("search_models")),
        validation.validation_view(reply("validate_model")),
        benchmark.benchmark_view(reply("benchmark_model")),
        optimization.optimization_view(reply("optimize_model"), Path("out/[a].png")),
        residency.load_view(reply("load_model")),
        residency.unload_view(reply("unload_model")),
        residency.pin_view(reply("pin_model")),
        residency.generate_view(reply("generate"), [Path("out/a.png")]),
        failure_panel(error),
    )


def well_or_refused(name: str) -> Any:
    action, _, refused = name.partition(" ")
    return replies.refusal(action) if refused else reply(action)


@pytest.mark.parametrize("width", WIDTHS)
def test_screens_fit_any_width(width: int) -> None:
    for view in every_screen(width, well_or_refused):
        assert drawn(view, width).strip()


HOSTILE = "\x1b]0;PWNED\x07\x1b[2J\x9b2J\r\nerror: forged\u202e\u2066\u2028[bold]x[/bold]\x7f"
"""A title, a cleared screen, a line that looks like ours, reversed text, markup."""
DANGEROUS = set(HOSTILE) - set("0;PWNED2J[]()/ \nerror: forgedboldx")


def spoilt(value: Any) -> Any:
    """The value with hostile text at the end of every text in it."""
    match value:
        case str():
            return value + HOSTILE
        case msgspec.Struct():
            return msgspec.structs.replace(value, **{n: spoilt(getattr(value, n)) for n in value.__struct_fields__})
        case list():
            return [spoilt(item) for item in value]
        case dict():
            return {spoilt(key) if isinstance(key, str) else key: spoilt(item) for key, item in value.items()}
        case _:
            return value


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_a_peer_reaches_the_terminal_as_anything_but_text(width: int) -> None:
    for view in every_screen(width, lambda name: readable(spoilt(well_or_refused(name)))):
        shown = drawn(view, width)
        assert not DANGEROUS & set(shown)
        assert not any(line.startswith("error: forged") for line in shown.splitlines())
    assert "\\x1b]0;PWNED\\x07" in drawn(catalogue.info_view(readable(spoilt(reply("get_model_info")))), 200)


def test_what_a_screen_forgot_to_spell_out_is_caught_on_its_way_out() -> None:
    shown = drawn(Text(HOSTILE), 200)
    assert not DANGEROUS & set(shown) and "[bold]x[/bold]" in shown


def test_the_hostile_text_would_be_obeyed_without_either() -> None:
    raw = io.StringIO()
    Console(file=raw, width=200, force_terminal=True).print(Text(HOSTILE))
    assert set(raw.getvalue()) & DANGEROUS


def test_ps_shows_memory_models_step_and_pressure() -> None:
    shown = drawn(devices.ps_view(reply("list_devices")), 160)
    for part in (
        "cpu:0",
        "7.0 GiB / 8.0 GiB",
        "elevated 81%",
        "generate tiny-sd15",
        "step 3 of 20",
        "Float16",
        "pinned",
        "█",
    ):
        assert part in shown


def test_an_unload_that_found_nothing_says_so() -> None:
    nothing = structs.replace(reply("unload_model"), memory_freed=0, ram_freed=0, message="tiny was not held")
    assert drawn(residency.unload_view(nothing), 80).strip() == "nothing freed tiny was not held"
    assert "unloaded" in drawn(residency.unload_view(reply("unload_model")), 80)


def test_load_says_which_option_was_not_applied_and_why() -> None:
    shown = drawn(residency.load_view(reply("load_model")), 160)
    assert "enable_tensor_rt" in shown and "not on a cpu device" in shown and "50% of the file" in shown


CANDIDATES = [
    Candidate(device_id="cpu:0", score=435.0, terms={"queue_ms": 0.0, "load_ms": 360.0, "replication_ms": 75.0}),
    Candidate(device_id="cpu:1", excluded_because="it is [disabled]"),
]
PLAN = PlanReply(
    request_id="r",
    action="plan",
    device_id="cpu:0",
    model_id="m",
    fits=True,
    bytes_needed=1 << 30,
    peak_bytes=1 << 31,
    load_peak_bytes=1 << 30,
    run_peak_bytes=1 << 31,
    step_ms=12.0,
    evictions=[PlannedEviction(model_id="old", bytes=1 << 30)],
    estimated_ms=435.0,
    candidates=CANDIDATES,
)
EXPLANATION = ExplainReply(
    request_id="r",
    action="explain",
    target_request_id="t",
    candidates=CANDIDATES,
    chosen="cpu:0",
    waits=[WaitRecord(reason="in the queue of cpu:0", ms=12.0)],
    passes=2,
)


@pytest.mark.parametrize("width", WIDTHS)
def test_decisions_fit_any_width(width: int) -> None:
    for view in (decisions.plan_view(PLAN), decisions.explain_view(EXPLANATION)):
        assert drawn(view, width).strip()


def test_a_plan_shows_bytes_evictions_and_what_a_score_is_made_of() -> None:
    shown = drawn(decisions.plan_view(PLAN), 160)
    for part in (
        "fits m",
        "1.0 GiB while it loads, 2.0 GiB while it draws",
        "old (1.0 GiB)",
        "435 ms",
        "75 ms",
        "it is [disabled]",
    ):
        assert part in shown


def test_an_explanation_shows_waits_and_passes_or_why_there_is_none() -> None:
    shown = drawn(decisions.explain_view(EXPLANATION), 160)
    assert "went to cpu:0" in shown and "in the queue of cpu:0 12 ms" in shown and "2 times" in shown
    unknown = msgspec.structs.replace(EXPLANATION, chosen=None, candidates=[], message="nothing is remembered of t")
    assert drawn(decisions.explain_view(unknown), 80).strip() == "nothing is remembered of t"


def test_words_in_brackets_are_words() -> None:
    shown = drawn(catalogue.models_view(reply("list_models")), 120)
    assert "Tiny [SD]" in shown
    assert "[b]" in drawn(catalogue.scan_view(reply("scan_models")), 120)
    error = replies.refusal("load_model").error
    assert error is not None and "unload [tiny]" in drawn(failure_panel(error), 120)


def test_a_console_without_unicode_gets_plain_bars() -> None:
    shown = drawn(bars.MemoryBar(7, 8, None, 8), 40, encoding="ascii")
    assert shown == "#######."


@pytest.mark.parametrize(
    ("busy", "idle", "total", "expected"),
    [
        (0, 0, 0, (0, 0, 10)),
        (1, 0, 10**9, (1, 0, 9)),
        (10, 0, 10, (10, 0, 0)),
        (9, 9, 10, (9, 1, 0)),
        (5, 5, 10, (5, 5, 0)),
    ],
)
def test_bar_cells_always_fill_the_width(busy: int, idle: int, total: int, expected: tuple[int, int, int]) -> None:
    assert bars.cells(busy, idle, total, 10) == expected


def test_every_pressure_level_has_a_colour() -> None:
    assert set(bars.COLOURS) == set(PressureLevel)
    assert set(devices.STATES) == set(DeviceState)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_one_line(event: Event) -> None:
    line = events.event_line(Published(topic="a.b", event=event, payload=b"", missed=2, restarted=True))
    assert "\n" not in line.plain and "2 missed" in line.plain and len(line.plain.split()) > 6


def test_info_shows_what_people_and_sidecars_say() -> None:
    info = reply("get_model_info")
    metadata = msgspec.structs.replace(
        info.model.metadata, custom={"trigger_words": ["a [b]", "c"], "base_model": "SD 1.5", "mood": {"calm": True}}
    )
    about = msgspec.structs.replace(info.model, metadata=metadata, version="2.1")
    rated = ModelUsageStats(user_rating=4.5)
    shown = drawn(catalogue.info_view(msgspec.structs.replace(info, model=about, usage_stats=rated)), 120)
    for part in (
        "version",
        "2.1",
        "trigger words",
        "a [b], c",
        "base model",
        "{'calm': True}",
        "not used yet, rated 4.5",
    ):
        assert part in shown
