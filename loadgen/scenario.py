"""What is to be asked of a broker: how much, of what, by whom, and what the answers must be like.

Decides which scenarios make sense. Knows nothing of sockets and clocks.
"""

from __future__ import annotations

import enum
import math
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from protocol.actions import ACTIONS, ALIASES
from protocol.enums import Lane, LoadPriority
from settings.nearest import question

LARGEST_RATE = 1e6
LONGEST_SECONDS = 7 * 86_400.0
MOST_CLIENTS = 10_000
MOST_PROCESSES = 256
MOST_CONCURRENT = 100_000


class ScenarioError(ValueError):
    """A scenario that makes no sense; the text names the field and its value."""


class Arrival(enum.Enum):
    """How the times between commands are spread, at the same rate on average."""

    POISSON = "poisson"
    GAMMA = "gamma"
    UNIFORM = "uniform"


class Stage(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a run. Open loop: `rate` commands a second, growing to `to_rate` where that is set. Closed loop:
    `concurrency` commands under way at any time."""

    seconds: float
    rate: float = 0.0
    to_rate: float | None = None
    concurrency: int = 0

    @property
    def is_open(self) -> bool:
        return self.rate > 0

    def rate_at(self, elapsed: float) -> float:
        """Commands a second, so many seconds after the stage began."""
        if self.to_rate is None:
            return self.rate
        return self.rate + (self.to_rate - self.rate) * min(1.0, elapsed / self.seconds)


class Kind(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A command of the mix: `fields` are its own, beside the model's id."""

    action: str
    weight: float = 1.0
    fields: dict[str, Any] = {}


class Scenario(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole run.

    `models` in the order of their popularity: the k-th is asked for in proportion to 1 / k ** `zipf` (0: all alike).
    `burstiness`: the coefficient of variation of a gamma arrival's gaps; 1 is Poisson's, more comes in bursts.
    `priorities`: how often each, by weight. `cancel_share` of the commands are cancelled, at a random moment within
    `cancel_within_seconds`. `deadline_seconds` is each command's `timeout_seconds`. `slo_seconds` is what goodput is
    counted by. A client is replaced by a fresh one after `churn_commands`, 0: never. `probe_hz` pings a second run
    beside the load. What is not answered within `patience_seconds` has timed out. `recording`: its commands are sent
    instead, `speed` times as fast as they came.
    """

    stages: list[Stage]
    mix: list[Kind] = msgspec.field(default_factory=lambda: [Kind(action="generate", fields={"prompt": "a boat"})])
    models: list[str] = []
    zipf: float = 1.0
    warm_up_seconds: float = 0.0
    arrival: Arrival = Arrival.POISSON
    burstiness: float = 1.0
    priorities: dict[LoadPriority, float] = {}
    cancel_share: float = 0.0
    cancel_within_seconds: float = 1.0
    deadline_seconds: float = 0.0
    slo_seconds: float = 1.0
    clients: int = 8
    churn_commands: int = 0
    processes: int = 1
    probe_hz: float = 10.0
    patience_seconds: float = 60.0
    seed: int = 1
    recording: str = ""
    speed: float = 1.0
    thresholds: list[str] = []

    @property
    def seconds(self) -> float:
        """How long commands are sent."""
        return self.warm_up_seconds + sum(stage.seconds for stage in self.stages)


def read_scenario(path: Path) -> Scenario:
    """A scenario's file, JSON or TOML by its ending. Raises ScenarioError, OSError."""
    data = path.read_bytes()
    decode = msgspec.toml.decode if path.suffix.lower() == ".toml" else msgspec.json.decode
    try:
        return checked(decode(data, type=Scenario))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ScenarioError):
            raise
        raise ScenarioError(f"scenario {path}: {error}") from None


def checked(scenario: Scenario) -> Scenario:
    """The scenario, known to make sense. Raises ScenarioError."""
    if not scenario.stages:
        raise ScenarioError("stages is empty: a run has one at least")
    for number, stage in enumerate(scenario.stages):
        _check_stage(stage, f"stages[{number}]")
    if not scenario.recording:
        _check_mix(scenario)
    _within("zipf", scenario.zipf, 0.0, 10.0)
    _within("warm_up_seconds", scenario.warm_up_seconds, 0.0, LONGEST_SECONDS)
    _within("burstiness", scenario.burstiness, 0.05, 100.0)
    _within("cancel_share", scenario.cancel_share, 0.0, 1.0)
    _within("cancel_within_seconds", scenario.cancel_within_seconds, 0.0, LONGEST_SECONDS)
    _within("deadline_seconds", scenario.deadline_seconds, 0.0, LONGEST_SECONDS)
    _within("slo_seconds", scenario.slo_seconds, 0.0, LONGEST_SECONDS)
    _within("clients", scenario.clients, 1, MOST_CLIENTS)
    _within("churn_commands", scenario.churn_commands, 0, 1_000_000_000)
    _within("processes", scenario.processes, 1, MOST_PROCESSES)
    _within("probe_hz", scenario.probe_hz, 0.0, 1000.0)
    _within("patience_seconds", scenario.patience_seconds, 0.01, LONGEST_SECONDS)
    for priority, weight in scenario.priorities.items():
        _within(f"priorities.{priority.value}", weight, 0.0, 1e9)
    if scenario.priorities and not any(scenario.priorities.values()):
        raise ScenarioError("priorities are all 0: one is more")
    return scenario


def _check_stage(stage: Stage, name: str) -> None:
    _within(f"{name}.seconds", stage.seconds, 0.01, LONGEST_SECONDS)
    if (stage.rate > 0) == (stage.concurrency > 0):
        raise ScenarioError(
            f"{name} has rate {stage.rate:g} and concurrency {stage.concurrency}: one of them is more than 0"
        )
    _within(f"{name}.rate", stage.rate, 0.0, LARGEST_RATE)
    _within(f"{name}.concurrency", stage.concurrency, 0, MOST_CONCURRENT)
    if stage.to_rate is not None:
        if not stage.is_open:
            raise ScenarioError(f"{name}.to_rate is {stage.to_rate:g}: a stage with a concurrency has no rate")
        _within(f"{name}.to_rate", stage.to_rate, 0.001, LARGEST_RATE)


def _check_mix(scenario: Scenario) -> None:
    if not scenario.mix:
        raise ScenarioError("mix is empty: a run has one command at least")
    for number, kind in enumerate(scenario.mix):
        if kind.action not in ALIASES:
            near = question(kind.action, ALIASES)
            raise ScenarioError(f"mix[{number}].action is '{kind.action}': no action of the protocol{near}")
        _within(f"mix[{number}].weight", kind.weight, 0.0, 1e9)
        action = ACTIONS[ALIASES[kind.action]]
        if action.lane is Lane.DEVICE and "model_id" not in kind.fields and not scenario.models:
            raise ScenarioError(f"models is empty: {kind.action} needs one")
    if not any(kind.weight for kind in scenario.mix):
        raise ScenarioError("mix has no weight above 0")


def _within(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ScenarioError(f"{name} is {value:g}: expected {low:g} to {high:g}")
