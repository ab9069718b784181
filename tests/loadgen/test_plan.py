"""What a scenario draws: the same for the same seed, and as often as it says."""

from __future__ import annotations

import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadgen.plan import Choice, arrivals, share, zipf
from loadgen.scenario import Arrival, Kind, Scenario, ScenarioError, Stage, checked, read_scenario
from protocol.enums import LoadPriority

OPEN = Stage(seconds=100.0, rate=100.0)


def scenario(**fields: Any) -> Scenario:
    return checked(Scenario(**{"stages": [OPEN], "models": ["a", "b", "c"], **fields}))


def gaps(one: Scenario, process: int = 0) -> list[float]:
    times = list(arrivals(one, one.stages[0], process))
    assert times == sorted(times) and times[-1] < one.stages[0].seconds
    return [later - earlier for earlier, later in pairwise(times)]


def test_the_same_seed_draws_the_same_and_another_another() -> None:
    def drawn(seed: int) -> list[Any]:
        one = scenario(seed=seed, cancel_share=0.5)
        choice = Choice(one)
        return [choice.draw() for _ in range(50)] + gaps(one)[:50]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(
    ("arrival", "burstiness", "variation"),
    [(Arrival.POISSON, 1.0, 1.0), (Arrival.GAMMA, 2.0, 2.0), (Arrival.GAMMA, 0.5, 0.5), (Arrival.UNIFORM, 1.0, 0.0)],
)
def test_arrivals_have_the_rate_and_the_variation_wanted(arrival: Arrival, burstiness: float, variation: float) -> None:
    found = gaps(scenario(arrival=arrival, burstiness=burstiness))
    mean = statistics.mean(found)
    assert mean == pytest.approx(0.01, rel=0.08)
    assert statistics.pstdev(found) / mean == pytest.approx(variation, rel=0.1, abs=1e-9)


def test_processes_share_a_rate_and_uniform_ones_take_turns() -> None:
    one = scenario(processes=4, arrival=Arrival.UNIFORM)
    times = sorted(at for process in range(4) for at in arrivals(one, OPEN, process))
    assert len(times) == pytest.approx(100 * 100, abs=4)
    assert all(later - earlier == pytest.approx(0.01, abs=1e-6) for earlier, later in pairwise(times))


def test_a_ramp_grows_from_one_rate_to_the_other() -> None:
    stage = Stage(seconds=100.0, rate=10.0, to_rate=100.0)
    times = list(arrivals(scenario(stages=[stage]), stage))
    halves = sum(at < 50 for at in times), sum(at >= 50 for at in times)
    assert len(times) == pytest.approx(5500, rel=0.05)
    assert halves[1] / halves[0] == pytest.approx(7750 / 3250, rel=0.1)


def test_models_are_asked_for_by_their_rank() -> None:
    choice = Choice(scenario(models=[f"m{rank}" for rank in range(1, 5)], zipf=1.0))
    counts = Counter(choice.draw().model_id for _ in range(20_000))
    weights = zipf(4, 1.0)
    for rank in range(1, 5):
        assert counts[f"m{rank}"] / 20_000 == pytest.approx(weights[rank - 1] / sum(weights), rel=0.1)


def test_commands_priorities_and_cancels_come_by_their_weights() -> None:
    kinds = [Kind(action="generate", weight=3), Kind(action="list_devices")]
    priorities = {LoadPriority.High: 1.0, LoadPriority.Low: 3.0}
    choice = Choice(scenario(mix=kinds, priorities=priorities, cancel_share=0.25))
    drawn = [choice.draw() for _ in range(20_000)]
    assert sum(one.kind == 0 for one in drawn) / 20_000 == pytest.approx(0.75, rel=0.05)
    assert sum(one.priority is LoadPriority.Low for one in drawn) / 20_000 == pytest.approx(0.75, rel=0.05)
    assert sum(one.cancel_after is not None for one in drawn) / 20_000 == pytest.approx(0.25, rel=0.1)
    assert all(bool(one.model_id) == (one.kind == 0) for one in drawn)


def test_a_share_adds_up() -> None:
    assert [share(10, process, 4) for process in range(4)] == [3, 3, 2, 2]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"stages": []}, "stages is empty"),
        ({"stages": [Stage(seconds=1)]}, r"stages\[0\] has rate 0 and concurrency 0"),
        ({"stages": [Stage(seconds=1, rate=1, concurrency=1)]}, "one of them"),
        ({"stages": [Stage(seconds=0, rate=1)]}, r"stages\[0\].seconds is 0"),
        ({"stages": [Stage(seconds=1, rate=float("nan"))]}, "has rate nan"),
        ({"stages": [Stage(seconds=1, concurrency=1, to_rate=5)]}, "to_rate is 5"),
        ({"mix": []}, "mix is empty"),
        ({"mix": [Kind(action="genrate")]}, r"mix\[0\].action is 'genrate'.*did you mean generate\?"),
        ({"mix": [Kind(action="ping", weight=0)]}, "no weight above 0"),
        ({"models": []}, "models is empty"),
        ({"processes": 0}, "processes is 0: expected 1 to 256"),
        ({"processes": 257}, "processes is 257"),
        ({"cancel_share": 1.5}, "cancel_share is 1.5"),
        ({"patience_seconds": 0.0}, "patience_seconds is 0"),
        ({"priorities": {LoadPriority.Low: 0.0}}, "priorities are all 0"),
    ],
)
def test_a_scenario_that_makes_no_sense_is_refused_by_name(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ScenarioError, match=said):
        scenario(**fields)


def test_limits_are_allowed() -> None:
    scenario(processes=256, clients=10_000, cancel_share=1.0, stages=[Stage(seconds=0.01, concurrency=100_000)])


def test_a_scenario_is_read_from_json_and_toml(tmp_path: Path) -> None:
    one = scenario(zipf=0.5)
    (tmp_path / "a.json").write_bytes(msgspec.json.encode(one))
    (tmp_path / "a.toml").write_text('models = ["a"]\n[[stages]]\nseconds = 1.0\nrate = 5.0\n')
    assert read_scenario(tmp_path / "a.json") == one
    assert read_scenario(tmp_path / "a.toml").stages[0].rate == 5.0
    for text in ('{"stages": [', '{"stagse": []}', '{"stages": [{"seconds": "long"}]}'):
        (tmp_path / "half.json").write_text(text)
        with pytest.raises(ScenarioError, match=r"half\.json"):
            read_scenario(tmp_path / "half.json")
