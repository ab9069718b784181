"""When which command is to be sent: drawn from the scenario and its seed, the same again for the same seed.

Pure: no clocks, no sockets. A process of several has every commands' share by its own stream of random numbers.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from msgspec import Struct

from loadgen.scenario import Arrival, Kind, Scenario, Stage
from protocol.actions import ACTIONS, ALIASES
from protocol.commands import ModelCommand
from protocol.enums import LoadPriority

PROMPTS = ("a boat", "a lighthouse at dusk", "a harbour in the rain", "gulls over a pier", "an old map of the sea")


class Wanted(Struct, frozen=True):
    """One command to be sent: which of the mix, about which model, how urgent, cancelled after so many seconds."""

    kind: int
    model_id: str
    priority: LoadPriority | None
    cancel_after: float | None
    seed: int


class Choice:
    """Draws commands."""

    def __init__(self, scenario: Scenario, process: int = 0) -> None:
        self._scenario = scenario
        self._random = random.Random(f"{scenario.seed}/{process}/commands")
        self._kinds = cumulative([kind.weight for kind in scenario.mix])
        self._popularity = cumulative(zipf(len(scenario.models), scenario.zipf))
        self._levels = list(scenario.priorities)
        self._urgency = cumulative(list(scenario.priorities.values()))
        self._named = [_names_model(kind) for kind in scenario.mix]

    def draw(self) -> Wanted:
        """The next command."""
        rng, scenario = self._random, self._scenario
        kind = rng.choices(range(len(scenario.mix)), cum_weights=self._kinds)[0]
        model = ""
        if self._named[kind] and scenario.models:
            model = rng.choices(scenario.models, cum_weights=self._popularity)[0]
        priority = rng.choices(self._levels, cum_weights=self._urgency)[0] if self._levels else None
        cancelled = scenario.cancel_share and rng.random() < scenario.cancel_share
        after = rng.uniform(0.0, scenario.cancel_within_seconds) if cancelled else None
        return Wanted(kind, model, priority, after, rng.getrandbits(31))


def _names_model(kind: Kind) -> bool:
    """Whether a model is drawn for a command of this kind: where it takes one and names none itself."""
    return issubclass(ACTIONS[ALIASES[kind.action]].command, ModelCommand) and "model_id" not in kind.fields


def zipf(count: int, exponent: float) -> list[float]:
    """Weights of so many things by their rank: 1 / rank ** exponent."""
    return [1.0 / rank**exponent for rank in range(1, count + 1)]


def cumulative(weights: Sequence[float]) -> list[float]:
    """Sums up to each."""
    return list(itertools.accumulate(weights))


def arrivals(scenario: Scenario, stage: Stage, process: int = 0, number: int = 0) -> Iterator[float]:
    """Seconds from the stage's beginning at which this process is to send, of an open stage's rate divided by the
    processes. With a rate that changes, each gap is as the rate at its beginning has it."""
    rng = random.Random(f"{scenario.seed}/{process}/{number}/arrivals")
    at = 0.0
    if scenario.arrival is Arrival.UNIFORM:
        at = process / stage.rate - scenario.processes / stage.rate
    while True:
        rate = stage.rate_at(max(at, 0.0)) / scenario.processes
        at += _gap(scenario, rng, rate)
        if at >= stage.seconds:
            return
        yield at


def _gap(scenario: Scenario, rng: random.Random, rate: float) -> float:
    """Seconds to the next command."""
    match scenario.arrival:
        case Arrival.POISSON:
            return rng.expovariate(rate)
        case Arrival.GAMMA:
            shape = 1.0 / scenario.burstiness**2
            return rng.gammavariate(shape, 1.0 / (rate * shape))
        case Arrival.UNIFORM:
            return 1.0 / rate


def share(total: int, process: int, processes: int) -> int:
    """How many of so many things one process has."""
    return total // processes + (process < total % processes)
