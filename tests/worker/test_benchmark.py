"""A benchmark's runs on real and virtual devices: as many as were asked for, timed, watched, refused, cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol import commands as c
from protocol.enums import BenchmarkType, LoadSource, ReplyState
from protocol.errors import ErrorCode
from protocol.records import ModelBenchmarkConfiguration, ModelLoadConfiguration, ModelMemoryOptimization
from protocol.replies import BenchmarkModelReply, LoadModelReply
from tests.worker.bench import Bench, worker_spec
from worker.devices.base import Drawing, DrawOrder
from worker.devices.cpu import CpuDevice
from worker.devices.readings import Sensors
from worker.job import Job, Progress

SD15, ONE, SLOW = "tiny-sd15", "one.vmodel.json", "slow.vmodel.json"


OWN = ("warmup_runs", "benchmark_runs", "save_results", "track_memory_usage")


def command(name: str, *, kind: BenchmarkType = BenchmarkType.PERFORMANCE, **fields: Any) -> c.BenchmarkModel:
    own = {key: fields.pop(key) for key in OWN if key in fields}
    shape = {"input_width": 64, "input_height": 64, "inference_steps": 2, **fields}
    asked = {"warmup_runs": 1, "benchmark_runs": 3, **own}
    return c.BenchmarkModel(
        model_id=name, configuration=ModelBenchmarkConfiguration(**shape), benchmark_type=kind, **asked
    )


def benchmark(bench: Bench, name: str = SD15, **fields: Any) -> BenchmarkModelReply:
    return bench.reply(BenchmarkModelReply, command(name, **fields), name)


@pytest.fixture
def orders(cpu: Bench) -> Iterator[list[tuple[DrawOrder, float]]]:
    """Every picture that is drawn of the model, with the milliseconds that it took as seen from outside."""
    cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15)
    resident = cpu.engine.cache.get(SD15)
    assert resident is not None
    seen: list[tuple[DrawOrder, float]] = []
    draw: Callable[[DrawOrder, Job], Drawing] = resident.built.draw

    def noted(order: DrawOrder, job: Job) -> Drawing:
        began = time.perf_counter()
        drawing = draw(order, job)
        seen.append((order, (time.perf_counter() - began) * 1000))
        return drawing

    resident.built.draw = noted  # type: ignore[method-assign]
    yield seen


def test_as_many_pictures_are_drawn_as_were_asked_for_and_timed_as_from_outside(
    cpu: Bench, orders: list[tuple[DrawOrder, float]]
) -> None:
    reply = benchmark(cpu, warmup_runs=2, benchmark_runs=4, batch_size=2)
    assert [order.watched for order, _ in orders] == [False] * 2 + [True] + [False] * 4
    assert {(o.width, o.height, o.steps, tuple(o.seeds)) for o, _ in orders} == {(64, 64, 2, (1, 2))}
    outside = [ms for _, ms in orders[3:]]
    assert reply.avg_inference_time == pytest.approx(sum(outside) / 4, rel=0.03)
    stats = reply.results.inference_time_stats
    assert (reply.avg_inference_time, reply.min_inference_time) == (stats.average, stats.minimum)
    assert reply.throughput == pytest.approx(2 / stats.average * 1000)
    assert reply.total_time == reply.benchmark_duration_seconds >= sum(outside) / 1000
    assert reply.results.quality_metrics["equal_pictures"] == 1.0
    assert reply.results.benchmark_configuration["times_ms"] == pytest.approx(outside, rel=0.05, abs=1)


def test_what_is_measured_of_memory_lies_between_the_weights_and_the_peak(cpu: Bench) -> None:
    reply = benchmark(cpu, kind=BenchmarkType.MEMORY, batch_size=4)
    weights = reply.memory_usage.weights_memory_bytes
    assert 0 < weights < reply.memory_avg < reply.memory_peak == reply.memory_usage.peak_memory_bytes
    assert reply.results.benchmark_configuration["memory_samples"] > 3
    assert reply.results.resource_utilization["memory"] == reply.memory_peak / cpu.engine.device.gauge().total
    untold = benchmark(cpu, track_memory_usage=False)
    assert untold.memory_peak == untold.memory_avg == 0
    assert set(untold.not_measured) >= {"memory_peak", "memory_avg"}


def test_a_model_that_is_not_there_is_loaded_and_its_runs_are_what_is_known_of_it(cpu: Bench) -> None:
    outcome = cpu.run(command(SD15, benchmark_runs=3, batch_size=2), SD15)
    reply, facts = outcome.reply, outcome.facts
    assert isinstance(reply, BenchmarkModelReply) and facts is not None
    assert (facts.source, facts.runs, facts.images) == (LoadSource.DISK, 3, 6)
    assert facts.run_ms == pytest.approx(3 * reply.avg_inference_time) and facts.peak_bytes == reply.memory_peak
    assert reply.performance_metrics.total_inferences == 3
    assert reply.performance_metrics.average_inference_time == pytest.approx(reply.avg_inference_time)
    unsaved = cpu.run(command(SD15, save_results=False), SD15).facts
    assert unsaved is not None and unsaved.run_ms is None and unsaved.images == 0
    denoiser = cpu.run(command(SD15, kind=BenchmarkType.COMPUTE), SD15).facts
    assert denoiser is not None and denoiser.run_ms is None, "the denoiser alone is no picture"


def test_the_denoiser_alone_takes_less_than_the_whole(cpu: Bench) -> None:
    reply = benchmark(cpu, kind=BenchmarkType.COMPUTE)
    told = reply.results.resource_utilization
    assert reply.avg_inference_time == pytest.approx(told["denoise_ms"])
    assert told["per_step_ms"] == pytest.approx(told["denoise_ms"] / 2)
    assert told["encode_ms"] > 0 and told["decode_ms"] > 0


def test_variants_stand_in_a_table_with_what_each_took(cpu: Bench, orders: list[tuple[DrawOrder, float]]) -> None:
    reply = benchmark(cpu, test_resolutions=True, warmup_runs=0, benchmark_runs=2)
    variants = reply.results.benchmark_configuration["variants"]
    assert [(one["width"], one["height"]) for one in variants] == [(32, 32), (64, 64), (96, 96)]
    peaks = [one["memory_peak"] for one in variants]
    assert peaks == sorted(peaks) and len(set(peaks)) == 3
    assert all(one["throughput"] == pytest.approx(1000 / one["average_ms"]) for one in variants)
    assert len(orders) == 1 + 2 + 3 * (1 + 2), "watched, timed, and of each variant one to warm up"


def test_batches_end_at_the_limit_that_is_in_force(profiles: Path) -> None:
    bench = Bench(profiles, worker_spec(profiles, "virtual:0", max_images=4))
    variants = benchmark(bench, ONE, test_batch_sizes=True).results.benchmark_configuration["variants"]
    assert [one["batch_size"] for one in variants] == [1, 2, 4]


def test_a_variant_that_does_not_fit_says_so_and_the_others_go_on(cpu: Bench) -> None:
    first = benchmark(cpu, batch_size=4)
    fraction = (first.memory_peak + 1) / cpu.engine.keeper.room().total
    bounded = ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(memory_fraction=fraction))
    cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=bounded), SD15)
    reply = benchmark(cpu, test_batch_sizes=True, benchmark_runs=1)
    variants = {one["batch_size"]: one for one in reply.results.benchmark_configuration["variants"]}
    assert [size for size, one in variants.items() if one["average_ms"] is not None] == [1, 2, 4]
    assert variants[8]["code"] == "INSUFFICIENT_MEMORY" and variants[8]["throughput"] is None
    assert cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15).cache.source is LoadSource.VRAM, "as it was"


def test_a_variant_for_which_no_time_is_left_is_not_begun(virtual: Bench) -> None:
    once = {"warmup_runs": 0, "benchmark_runs": 1, "track_memory_usage": False}
    outcome = virtual.run(command(ONE, test_resolutions=True, inference_steps=250, **once), ONE, deadline_ms=2250.0)
    assert isinstance(outcome.reply, BenchmarkModelReply), outcome.reply.error
    variants = outcome.reply.results.benchmark_configuration["variants"]
    assert "of the deadline are left" in variants[-1]["error"], "half a second at one size, a whole one at the next"


def test_a_stress_goes_on_for_as_long_as_it_was_asked_to(virtual: Bench) -> None:
    parameters = {"duration_seconds": 0.2}
    reply = benchmark(virtual, ONE, kind=BenchmarkType.STRESS, parameters=parameters, benchmark_runs=1)
    told = reply.results.benchmark_configuration
    assert told["duration_seconds"] == 0.2 <= reply.total_time
    assert told["benchmark_runs"] == len(told["times_ms"]) > 3, "runs of 4 ms"


def test_energy_is_what_the_meter_counted_and_null_with_a_reason_without_one(
    cpu: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = benchmark(cpu, kind=BenchmarkType.POWER)
    path = "results.resource_utilization."
    assert {f"{path}energy_j", f"{path}power_w", f"{path}device"} <= set(bare.not_measured)
    assert "energy_j" not in bare.results.resource_utilization
    last = [100.0]

    def sensors(_: CpuDevice) -> Sensors:
        return Sensors(utilization=0.5, power_w=80.0, energy_j=last[0])

    monkeypatch.setattr(CpuDevice, "sensors", sensors)
    resident = cpu.engine.cache.get(SD15)
    assert resident is not None
    draw = resident.built.draw

    def drawn(order: DrawOrder, job: Job) -> Drawing:
        last[0] += 30.0 if not order.watched else 0.0
        return draw(order, job)

    monkeypatch.setattr(resident.built, "draw", drawn)
    told = benchmark(cpu, kind=BenchmarkType.POWER, warmup_runs=0, benchmark_runs=2, batch_size=2)
    found = told.results.resource_utilization
    assert (found["energy_j"], found["energy_per_image_j"]) == (60.0, 15.0)
    assert (found["power_w"], found["device"]) == (80.0, 0.5) and not told.not_measured


def test_progress_counts_runs_and_a_cancel_ends_between_them(cpu: Bench) -> None:
    seen: list[Progress] = []
    asked = command(SD15, warmup_runs=1, benchmark_runs=50)

    def told(job: Job, progress: Progress) -> None:
        seen.append(progress)
        if progress.step is not None:
            job.cancel(ErrorCode.CANCELLED, "enough")

    outcome = cpu.run(asked, SD15, on_progress=told)
    assert outcome.reply.error is not None and outcome.reply.error.code is ErrorCode.CANCELLED
    assert outcome.reply.state is ReplyState.CANCELLED
    steps = [(one.step, one.steps) for one in seen if one.step is not None]
    assert steps == [(1, 51)], "of warm-up and timed runs, not of a picture's steps"
    resident = cpu.engine.cache.get(SD15)
    assert resident is not None and not resident.busy and resident.runs.count(False) == 0


def test_a_parameter_that_makes_no_sense_is_told_before_anything_is_loaded(cpu: Bench) -> None:
    error = cpu.error(command(SD15, parameters={"seed": -1}), SD15)
    assert (error.code, error.details["field"]) == (ErrorCode.INVALID_ARGUMENT, "configuration.parameters.seed")
    assert cpu.engine.cache.listing() == []
    reply = benchmark(cpu, parameters={"tiles": 4})
    assert reply.warnings == ["configuration.parameters.tiles is no parameter of a benchmark"]


def test_a_run_that_fails_leaves_the_model_as_it_was(cpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reply = benchmark(cpu)
    resident = cpu.engine.cache.get(SD15)
    assert resident is not None
    draw, calls = resident.built.draw, iter(range(3))

    def failing(order: DrawOrder, job: Job) -> Drawing:
        if next(calls, None) is None:
            raise ValueError("no")
        return draw(order, job)

    monkeypatch.setattr(resident.built, "draw", failing)
    assert cpu.error(command(SD15), SD15).code is ErrorCode.INTERNAL_ERROR
    assert list(resident.runs)[-1] is False and not resident.busy
    monkeypatch.undo()
    assert benchmark(cpu).memory_peak == reply.memory_peak


def test_a_profiles_benchmark_is_what_the_profile_says(virtual: Bench) -> None:
    reply = benchmark(virtual, ONE, inference_steps=5, benchmark_runs=3)
    assert reply.min_inference_time >= 5 * 2, "5 steps of 2 ms"
    assert reply.memory_peak == 2000 and reply.memory_avg == 1000
    assert reply.results.benchmark_configuration["device"]["kind"] == "virtual"
