"""Running a peer's script in the peer's environment, and reading its one line of figures."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.broker import Round
from bench.peers import environments

START_AND_STOP_SECONDS = 120.0
ENDING_SECONDS = 15.0
OURS = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
"""The peer's environment knows nothing of this project but where it is."""


class Row(Round, frozen=True, kw_only=True):
    """One round, and how many commands were under way in it."""

    in_flight: int


class Measured(Struct, frozen=True, kw_only=True):
    """What a peer's script prints last."""

    peer: str
    version: str
    rows: list[Row]


class Unmeasured(Exception):
    """A peer gave no figures; the text is the reason."""


def ask(peer: str, arguments: list[str], seconds: float) -> Measured:
    """One run of the peer; `seconds` is the time that it measures. Raises Unmeasured with the last that it said."""
    command = [str(environments.python_of(peer)), "-P", "-m", f"bench.peers.{peer}_echo", *arguments]
    said, log = (environments.FOLDER / f"{peer}.{kind}" for kind in ("out", "log"))
    with said.open("wb") as output, log.open("wb") as errors:
        script = subprocess.Popen(command, stdout=output, stderr=errors, env=OURS, start_new_session=True)
        try:
            script.wait(timeout=START_AND_STOP_SECONDS + seconds)
        except subprocess.TimeoutExpired as late:
            raise Unmeasured(f"no figures within {START_AND_STOP_SECONDS + seconds:.0f} s; see {log}") from late
        finally:
            end(script)
    try:
        return msgspec.json.decode(environments.last_line(said.read_text()), type=Measured)
    except msgspec.DecodeError as error:
        reason = environments.last_line(log.read_text(errors="replace"))
        raise Unmeasured(f"exit status {script.returncode}: {reason}") from error


def end(script: subprocess.Popen[bytes]) -> None:
    """Asked, so that it ends what it started in sessions of their own; then all that is left of its session."""
    script.terminate()
    with suppress(subprocess.TimeoutExpired):
        script.wait(timeout=ENDING_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)
    script.wait()
