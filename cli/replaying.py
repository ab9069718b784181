"""Recording and replaying from the command line's words to the file and the report."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import zmq

from cli.generating import execute
from cli.session import FAILED, USAGE, checked_endpoint, fail, session
from client.curve import CurveKeys
from loadgen.recorder import Recorder
from loadgen.replaying import scenario_of
from loadgen.scenario import ScenarioError
from settings.config import DEFAULT_COMMANDS

TELL_SECONDS = 5.0


def record(endpoint: str | None, file: Path, *, listen: str, scrub: bool) -> None:
    """Record until SIGINT or SIGTERM."""
    with session(endpoint, as_json=False) as this:
        address = this.client.endpoint
        try:
            with file.open("xb") as stream:
                place = checked_endpoint(listen, DEFAULT_COMMANDS)
                recorder = Recorder(place, address, stream, keys=CurveKeys.find(), scrub=scrub)
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, lambda *_: recorder.stop())
                this.out.print(f"clients connect to {recorder.address}; what they ask goes to {address} and {file}")
                this.out.file.flush()
                recorder.run(_telling(this.err))
        except FileExistsError:
            fail(f"{file} is there already: a recording is a new file", USAGE)
        except zmq.ZMQError as error:
            fail(f"'{listen}' cannot be listened at: {error}", FAILED)
        this.out.print(f"{recorder.commands} commands, {recorder.answers} answers")


def _telling(terminal: Any) -> Any:
    """A line now and then of how much was recorded, where somebody watches."""
    said = [time.monotonic()]

    def tell(commands: int, answers: int) -> None:
        if terminal.is_terminal and time.monotonic() - said[0] >= TELL_SECONDS:
            said[0] = time.monotonic()
            terminal.print(f"{commands} commands, {answers} answers", style="dim")

    return tell


def replay(
    endpoint: str | None,
    file: Path,
    *,
    speed: float,
    settings: dict[str, Any],
    output: Path | None,
    as_json: bool,
) -> None:
    """Replay a recording; ends as `loadgen run` does."""
    try:
        scenario = scenario_of(file, speed=speed, **settings)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}", USAGE)
    except ScenarioError as error:
        fail(str(error), USAGE)
    execute(endpoint, scenario, output=output, as_json=as_json)
