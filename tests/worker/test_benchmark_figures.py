"""What timed runs add up to, and what a benchmark is asked for: numbers that can be checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from protocol import commands as c
from protocol.enums import BenchmarkType
from protocol.errors import ErrorCode, Fault
from protocol.records import ModelBenchmarkConfiguration
from protocol.replies import Limits
from worker.benchmark.figures import HALF_RATE, overall_score, percentile, throughput_stats, time_stats
from worker.benchmark.settings import PROMPT, Settings, settings_of


def asked(kind: BenchmarkType = BenchmarkType.PERFORMANCE, **fields: Any) -> Settings:
    command = c.BenchmarkModel(
        model_id="m", configuration=ModelBenchmarkConfiguration(**fields), benchmark_type=kind, benchmark_runs=5
    )
    return settings_of(command, Limits())


def test_times_add_up_to_their_statistics() -> None:
    found = time_stats([10.0, 20.0, 30.0, 40.0])
    assert (found.average, found.minimum, found.maximum) == (25.0, 10.0, 40.0)
    assert found.standard_deviation == pytest.approx(12.909944)
    assert found.percentile95 == pytest.approx(38.5) and found.percentile99 == pytest.approx(39.7)
    one = time_stats([7.0])
    assert (one.average, one.standard_deviation, one.percentile99) == (7.0, 0.0, 7.0)
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2.0


def test_throughput_is_images_by_time() -> None:
    found = throughput_stats([100.0, 300.0], images=4, wall_ms=500.0)
    assert (found.average, found.peak, found.sustained) == (20.0, 40.0, 16.0)
    assert found.efficiency == 0.5


def test_the_score_is_half_of_the_scale_at_its_rate_and_less_for_uneven_runs() -> None:
    even = time_stats([1000.0, 1000.0])
    assert overall_score(even, pixels=1_000_000, steps=int(HALF_RATE)) == 50.0
    uneven = time_stats([500.0, 1500.0])
    assert overall_score(uneven, 1_000_000, int(HALF_RATE)) == pytest.approx(50 * 1000 / 1450, abs=0.01)


def test_batches_double_up_to_the_limit_and_sizes_are_half_once_and_one_and_a_half() -> None:
    assert asked().variants == ()
    batches = asked(test_batch_sizes=True).variants
    assert [one.batch_size for one in batches] == [1, 2, 4, 8, 16, 32, 64]
    assert {(one.width, one.height) for one in batches} == {(512, 512)}
    sizes = asked(test_resolutions=True, input_width=520, input_height=8, batch_size=3).variants
    assert [(one.width, one.height, one.batch_size) for one in sizes] == [(256, 8, 3), (520, 8, 3), (776, 8, 3)]
    large = asked(test_resolutions=True, input_width=8192, input_height=8192).variants
    assert [one.width for one in large] == [4096, 8192], "no side is beyond the limit"
    assert len(asked(BenchmarkType.MIXED).variants) == 7 + 2, "both, and what both have once"


def test_parameters_mean_what_they_say_and_unknown_ones_are_named() -> None:
    plain = asked()
    assert (plain.prompt, plain.seed, plain.guidance_scale, plain.unknown) == (PROMPT, 1, None, ())
    mine = asked(parameters={"prompt": "a fox", "seed": 9, "guidance_scale": 3, "spin": 1, "scheduler": "Euler"})
    assert (mine.prompt, mine.seed, mine.guidance_scale, mine.scheduler) == ("a fox", 9, 3.0, "Euler")
    assert mine.unknown == ("spin",)
    assert asked(parameters={"duration_seconds": 5}).stress_seconds == 0, "of a stress alone"
    assert asked(BenchmarkType.STRESS).stress_seconds == 60
    assert asked(BenchmarkType.STRESS, parameters={"duration_seconds": 5}).stress_seconds == 5
    assert not settings_of(c.BenchmarkModel(track_memory_usage=False), Limits()).track_memory
    memory = c.BenchmarkModel(track_memory_usage=False, benchmark_type=BenchmarkType.MEMORY)
    assert settings_of(memory, Limits()).track_memory, "which is what it measures"


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("seed", [0, 2**63 - 1], [-1, 2**63, "x", True]),
        ("guidance_scale", [0, 1000], [-0.1, 1000.1, float("nan"), "7"]),
        ("duration_seconds", [0.001, 86_400], [0, 86_401, float("inf")]),
        ("prompt", ["", "x" * (16 << 10)], ["x" * ((16 << 10) + 1), 3]),
    ],
)
def test_every_parameter_has_its_bounds(name: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        asked(BenchmarkType.STRESS, parameters={name: value})
    for value in wrong:
        with pytest.raises(Fault) as raised:
            asked(BenchmarkType.STRESS, parameters={name: value})
        assert raised.value.code is ErrorCode.INVALID_ARGUMENT
        assert raised.value.info.details["field"] == f"configuration.parameters.{name}"
