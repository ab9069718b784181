"""A load from the command line's words to its report: scenario, live screen, files, exit status."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from rich.live import Live

from cli.screens.load import compared_view, live_view, report_view
from cli.session import FAILED, USAGE, Session, fail, print_json, session
from cli.terminal import Terminal, readable
from client.answers import as_kind
from client.curve import CurveKeys
from client.events import events_address
from loadgen.comparing import compare as compared
from loadgen.comparing import read_report
from loadgen.messages import Progress
from loadgen.report import Report, check_thresholds
from loadgen.running import RunError, run
from loadgen.scenario import Kind, Scenario, ScenarioError, Stage, checked, read_scenario
from protocol.commands import Hello, ListModels
from protocol.enums import ModelSortBy
from protocol.replies import HelloReply, ListModelsReply

PROMPT = "a boat"
CONCURRENCY = 4
"""Commands under way where nobody says another load."""


def scenario_of(
    file: Path | None,
    *,
    rates: str,
    levels: str,
    seconds: float,
    mix: list[str],
    fields: dict[str, Any],
    settings: dict[str, Any],
) -> Scenario:
    """The scenario of a file, else of the options. One that makes no sense is a usage error."""
    try:
        if file is not None:
            return read_scenario(file)
        stages = [Stage(seconds=seconds, rate=float(one)) for one in _numbers(rates, "--rate")]
        stages += [Stage(seconds=seconds, concurrency=int(float(one))) for one in _numbers(levels, "--concurrency")]
        stages = stages or [Stage(seconds=seconds, concurrency=CONCURRENCY)]
        kinds = [_kind(text, fields) for text in mix or ["generate"]]
        written = {"stages": stages, "mix": kinds, **settings}
        return msgspec.convert(msgspec.to_builtins(written), Scenario)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", USAGE)
    except (msgspec.ValidationError, ValueError) as error:
        fail(str(error), USAGE)


def _numbers(text: str, option: str) -> Iterator[float]:
    for word in filter(None, text.split(",")):
        try:
            yield float(word)
        except ValueError:
            raise ScenarioError(f"{option} is '{text}': '{word}' is no number") from None


def _kind(text: str, fields: dict[str, Any]) -> Kind:
    """`ACTION` or `ACTION=WEIGHT`."""
    action, _, weight = text.partition("=")
    try:
        share = float(weight) if weight else 1.0
    except ValueError:
        raise ScenarioError(f"--mix is '{text}': '{weight}' is no weight") from None
    own = {"prompt": PROMPT, **fields} if action == "generate" else {}
    return Kind(action=action, weight=share, fields=own)


def execute(endpoint: str | None, scenario: Scenario, *, output: Path | None, as_json: bool) -> None:
    """Carry a scenario out against a broker; ends with 1 where a threshold was broken or the run was cut short."""
    with session(endpoint, as_json) as this:
        scenario = _sensible(_with_models(scenario, this))
        folder = _writable(output)
        hello = as_kind(this.client.call(Hello()), HelloReply).reply
        address, keys = this.client.endpoint, CurveKeys.find()
        events = events_address(hello.events, address)
        broker = {"endpoint": address, "version": hello.version, "epoch": hello.epoch}
        this.client.close()
        try:
            with _live(scenario, this.err) as tell:
                found = run(address, scenario, keys=keys, events=events, broker=broker, tell=tell)
        except RunError as error:
            fail(str(error), FAILED)
        _finish(found, folder, this.out, as_json=as_json)


def _finish(found: Report, folder: Path | None, out: Terminal, *, as_json: bool) -> None:
    """Show and write a report; the exit status is its verdict's."""
    written = msgspec.json.encode(found)
    if folder is not None:
        from loadgen.pages import page  # noqa: PLC0415 - plots take a second to import

        (folder / "report.json").write_bytes(msgspec.json.format(written) + b"\n")
        (folder / "report.html").write_text(page(found), encoding="utf-8")
    if as_json:
        print_json(written)
    else:
        out.print(report_view(readable(found), folder))
    if not found.passed or found.ended != "completed":
        raise SystemExit(FAILED)


def _with_models(scenario: Scenario, this: Session) -> Scenario:
    """The scenario with every model that the catalogue knows, where it names none."""
    if scenario.models or scenario.recording:
        return scenario
    command = ListModels(page_size=1000, sort_by=ModelSortBy.Name)
    found = as_kind(this.client.call(command), ListModelsReply).reply
    return msgspec.structs.replace(scenario, models=[model.id for model in found.models])


def _sensible(scenario: Scenario) -> Scenario:
    try:
        check_thresholds(scenario.thresholds)
        return checked(scenario)
    except ScenarioError as error:
        fail(str(error), USAGE)


def _writable(folder: Path | None) -> Path | None:
    """The folder for the report, made before anything runs: a run whose report cannot be written is no use."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".report"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        fail(f"{folder} cannot be written: {error.strerror}", USAGE)
    return folder


@contextmanager
def _live(scenario: Scenario, terminal: Terminal) -> Iterator[Any]:
    """A screen that follows the run, where there is a terminal; what tells it how the run goes."""
    if not terminal.is_terminal:
        yield None
        return
    with Live(console=terminal, auto_refresh=False, transient=True) as live:

        def tell(standings: list[Progress]) -> None:
            live.update(live_view(scenario, standings), refresh=True)

        yield tell


def compare(before: Path, after: Path, *, as_json: bool) -> None:
    """Show two reports beside each other."""
    try:
        changes = compared(read_report(before), read_report(after))
    except OSError as error:
        _unreadable(error)
    except ScenarioError as error:
        fail(str(error), USAGE)
    if as_json:
        print_json(msgspec.json.encode(changes))
    else:
        Terminal().print(compared_view(changes))


def _unreadable(error: OSError) -> NoReturn:
    fail(f"{error.filename} cannot be read: {error.strerror}", USAGE)
