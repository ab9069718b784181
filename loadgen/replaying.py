"""A recording as load: its commands at their moments, under ids of this run, about each other as they were."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

from msgspec import Struct

from loadgen import trace
from loadgen.scenario import Scenario, ScenarioError, Stage

LONGEST_ID = 128
TAIL_SECONDS = 0.5
"""A replay's stage is as much longer than its last command."""

PLAIN = {"naming": "snake", "enums": "name"}
"""How replies of a replay are spelled, whatever the commands show: they are read for their figures alone."""


class Due(Struct, frozen=True):
    """A command of a recording: seconds from the start, its client, its object, its attachments."""

    at: float
    client: int
    payload: dict[str, Any]
    attachments: list[bytes]


def scenario_of(path: Path, *, speed: float = 1.0, **fields: Any) -> Scenario:
    """The scenario that replays a recording so many times as fast. Raises OSError, ScenarioError."""
    if not 0.001 <= speed <= 10_000:
        raise ScenarioError(f"speed is {speed:g}: expected 0.001 to 10,000")
    times = [line.at for line in trace.read(path) if isinstance(line, trace.Command)]
    if not times:
        raise ScenarioError(f"{path} has no commands")
    seconds = max(times) / speed + TAIL_SECONDS
    stage = Stage(seconds=seconds, rate=max(0.001, len(times) / seconds))
    return Scenario(stages=[stage], recording=str(path.absolute()), speed=speed, probe_hz=0.0, **fields)


def commands_of(scenario: Scenario, process: int, run: str) -> deque[Due]:
    """A process's share of a recording: all commands of each client whose turn it is."""
    found: deque[Due] = deque()
    for number, line in enumerate(trace.read(Path(scenario.recording))):
        if not isinstance(line, trace.Command) or line.client % scenario.processes != process:
            continue
        payload, attachments = trace.restored(line)
        if payload is not None:
            found.append(Due(line.at / scenario.speed, line.client, renamed(payload, run, number), attachments))
    return found


def renamed(payload: dict[str, Any], run: str, number: int) -> dict[str, Any]:
    """The command under an id that no other run has; what it says of another command leads to that one's new id."""
    changed, named = dict(payload), False
    for key, value in payload.items():
        plain = key.replace("_", "").lower()
        if plain == "requestid" and isinstance(value, str):
            changed[key], named = new_id(value, run), True
        elif plain == "targetrequestid" and isinstance(value, str):
            changed[key] = new_id(value, run)
        elif plain == "conventions" or (plain == "requestid" and value is None):
            del changed[key]
    if not named:
        changed["request_id"] = f"{run}-n{number}"
    changed["conventions"] = PLAIN
    return changed


def new_id(recorded: str, run: str) -> str:
    """The id that a recorded one has in a run: the same wherever it stands."""
    return f"{run}-{recorded}"[:LONGEST_ID]


def id_of(payload: dict[str, Any]) -> str:
    """The request id of a renamed command."""
    return next(str(value) for key, value in payload.items() if key.replace("_", "").lower() == "requestid")


def action_of(payload: dict[str, Any]) -> str:
    """Its action, as it was written; "" where it has none."""
    return next((str(value) for key, value in payload.items() if key.lower() == "action"), "")
