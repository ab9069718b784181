"""The whole machine in simulated time, in the suite: a few hundred seeds, and planted bugs that they must catch.

`make sim` runs thousands of hours of it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec
import pytest

from broker.core.adoption import Adoption
from broker.core.answers import Answers
from broker.core.coalescing import Coalescing
from broker.core.dispatch import Dispatch
from broker.core.endings import Endings
from broker.core.queues import DeviceQueue
from broker.core.workforce import Workforce
from protocol.link import Register
from tests.simulation.runs import STORMY, run, simulate
from tests.simulation.world import SimulatedJournal

SEEDS = 120
MUTANT_SEEDS = 80
CALM_SEEDS = 40


@pytest.mark.timeout(300)
def test_no_command_is_lost_doubled_or_stuck_whatever_dies_and_when() -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = list(pool.map(run, range(SEEDS), chunksize=8))
    broken = {result.seed: result.broken for result in results if result.broken}
    assert not broken, f"repeat one with simulate(seed, shape_of(seed)): {broken}"
    assert sum(result.deaths for result in results) > SEEDS
    assert sum(result.broker_deaths for result in results) > SEEDS // 2
    assert sum(result.succeeded for result in results) > 50 * SEEDS


def test_the_storms_of_planted_bugs_break_nothing_by_themselves() -> None:
    assert not [seed for seed in range(CALM_SEEDS) if simulate(seed, STORMY).broken]


def test_a_seed_repeats_its_run_exactly() -> None:
    assert run(7) == run(7)


def nothing(*_: Any, **__: Any) -> None:
    return None


def _pop_the_last(queue: DeviceQueue, *_: Any) -> Any:
    jobs = list(queue)
    if jobs:
        queue.remove(jobs[-1])
    return jobs[-1] if jobs else None


def _answer_twice(send: Callable[..., None]) -> Callable[..., None]:
    def twice(answers: Answers, waiter: Any, body: bytes, attachments: Any) -> None:
        send(answers, waiter, body, attachments)
        send(answers, waiter, body, attachments)

    return twice


def _forget_held(register: Callable[..., None]) -> Callable[..., None]:
    def forgetful(workforce: Workforce, worker: bytes, header: Register) -> None:
        register(workforce, worker, msgspec.structs.replace(header, holding=[]))

    return forgetful


MUTANTS: dict[str, tuple[Any, str, Any]] = {
    "a queue is a stack": (DeviceQueue, "pop", _pop_the_last),
    "every reply goes out twice": (Answers, "_send", _answer_twice(Answers._send)),
    "final replies are not written down": (SimulatedJournal, "keep", nothing),
    "nothing held is adopted": (Workforce, "_register", _forget_held(Workforce._register)),
    "what had begun is not settled": (Adoption, "settle", nothing),
    "a dead worker's running command is forgotten": (Endings, "lost", nothing),
    "followers are not answered": (Coalescing, "ended", lambda *_: []),
    "nobody looks whether workers live": (Workforce, "watch", nothing),
    "a device is not released": (Dispatch, "release", nothing),
    "deadlines do nothing": (Dispatch, "expire", nothing),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, replacement = MUTANTS[name]
    monkeypatch.setattr(owner, attribute, replacement)
    for seed in range(MUTANT_SEEDS):
        if simulate(seed, STORMY).broken:
            return
    raise AssertionError(f"{MUTANT_SEEDS} seeds did not notice")
