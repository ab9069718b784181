"""Optimising: what is tried, kept, undone, saved and refused, and that a model is as it was whatever ends it."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.enums import CoordinationMode, ModelPrecision, OptimizationLevel
from protocol.enums import ModelOptimizationTarget as Target
from protocol.errors import ErrorCode, Fault
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, Limits, LoadModelReply, OptimizeModelReply, UnloadModelReply
from tests.worker.bench import Bench, worker_spec
from worker.job import Job, Progress
from worker.optimizing import optimizer
from worker.optimizing.settings import settings_of
from worker.optimizing.steps import BOUNDS, TABLE, steps_of
from worker.saving import whole_folder

SD15, ONE = "tiny-sd15", "one.vmodel.json"
MEMORY, SPEED, QUALITY = Target.Memory, Target.Speed, Target.Quality
BASIC, BALANCED, MAXIMUM = OptimizationLevel.Basic, OptimizationLevel.Balanced, OptimizationLevel.Maximum
SMALL = {"steps": 1, "prompts": ["a boat"], "budget_seconds": 600}


@pytest.fixture
def bench(model_root: Path, tmp_path: Path) -> Bench:
    """A root of its own, into which models are saved."""
    root = tmp_path / "models"
    root.mkdir()
    for name in (SD15, "tiny-sd15-single", "tiny-sd15-single.safetensors"):
        source = model_root / name
        shutil.copytree(source, root / name) if source.is_dir() else shutil.copy(source, root)
    torch.set_num_threads(1)
    return Bench(root, worker_spec(root, runtime=str(tmp_path / "runtime"), ram_budget_bytes=256 << 20))


@pytest.fixture(autouse=True)
def even(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are as fast as each other, so that what is kept is decided by memory and pictures."""
    measure = optimizer.measure

    def timeless(*arguments: Any) -> Any:
        measured = measure(*arguments)
        return type(measured)(**{**{k: getattr(measured, k) for k in measured.__struct_fields__}, "step_ms": 10.0})

    monkeypatch.setattr(optimizer, "measure", timeless)


def command(target: Target = MEMORY, level: OptimizationLevel = BALANCED, **fields: Any) -> c.OptimizeModel:
    parameters = {**SMALL, **fields.pop("parameters", {})}
    return c.OptimizeModel(
        **{
            "model_id": SD15,
            "target": target,
            "level": level,
            "parameters": parameters,
            "save_optimized": False,
            **fields,
        }
    )


def optimize(
    bench: Bench, target: Target = MEMORY, level: OptimizationLevel = BALANCED, **fields: Any
) -> OptimizeModelReply:
    return bench.reply(OptimizeModelReply, command(target, level, **fields), SD15)


def draw(bench: Bench, model_id: str = SD15, name: str = "") -> bytes:
    asked = c.Generate(model_id=model_id, prompt="x", seed=3, steps=2, width=64, height=64)
    outcome = bench.run(asked, name or model_id)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


@pytest.fixture
def before(bench: Bench) -> Iterator[bytes]:
    """A picture of the model as it is; and the model is as it was when the test has ended, where that says so."""
    yield draw(bench)


def test_every_target_and_level_has_its_steps_and_its_bounds() -> None:
    levels = set(OptimizationLevel) - {OptimizationLevel.NONE}
    assert set(TABLE) == set(Target) and set(BOUNDS) == levels
    for target, table in TABLE.items():
        assert set(table) == levels and all(table.values()) and steps_of(target, OptimizationLevel.NONE) == ()
    ordered = [BOUNDS[level] for level in OptimizationLevel if level in levels]
    assert [one.least_likeness for one in ordered] == sorted((one.least_likeness for one in ordered), reverse=True)
    assert [one.most_slowdown for one in ordered] == sorted(one.most_slowdown for one in ordered)


def test_a_step_that_saves_memory_is_kept_and_measured(bench: Bench, before: bytes) -> None:
    reply = optimize(bench)
    sixteen, slicing = reply.options
    assert (sixteen.option, sixteen.requested, sixteen.applied) == ("precision", ModelPrecision.BFloat16, True)
    evidence = sixteen.evidence
    assert evidence is not None and evidence["bytes_after"] < 0.55 * evidence["bytes_before"]
    assert slicing.option == "enable_attention_slicing" and not slicing.applied
    results = reply.results
    assert results.optimizations_applied == ["precision"]
    assert results.original_size_bytes == evidence["bytes_before"]
    assert results.optimized_size_bytes == evidence["bytes_after"] == reply.vram_usage_after
    assert results.size_reduction_percentage == pytest.approx(
        100 - evidence["bytes_after"] / evidence["bytes_before"] * 100
    )
    assert reply.memory_freed == results.original_size_bytes - results.optimized_size_bytes
    assert results.quality_impact_score == pytest.approx(1 - results.detailed_metrics["ssim"])
    assert 0 < results.quality_impact_score < 0.03
    assert results.detailed_metrics["psnr_db"] < 100 and results.detailed_metrics["latent_distance"] > 0
    assert draw(bench) != before, "it stays"


def test_what_was_kept_is_gone_once_the_model_was_unloaded_or_loaded_under_a_configuration(
    bench: Bench, before: bytes
) -> None:
    optimize(bench)
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert draw(bench) == before
    optimize(bench)
    configuration = ModelLoadConfiguration()
    bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
    assert draw(bench) == before
    optimize(bench)
    bench.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15)
    assert draw(bench) != before, "a load that asks for nothing leaves it as it is"


def test_what_an_earlier_optimisation_kept_is_undone_by_leaving_whatever_a_later_one_tried(
    bench: Bench, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimize(bench)
    monkeypatch.setattr(optimizer, "ssim", lambda *_: 0.5)
    assert optimize(bench, MEMORY, MAXIMUM).results.optimizations_applied == []
    assert draw(bench) != before, "what the first one kept"
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert draw(bench) == before


def test_a_step_whose_pictures_are_others_is_undone_bit_for_bit(
    bench: Bench, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizer, "ssim", lambda *_: 0.5)
    reply = optimize(bench, MEMORY, MAXIMUM)
    assert not any(option.applied for option in reply.options) and reply.results.optimizations_applied == []
    assert "SSIM 0.500, and Maximum allows 0.8" in (reply.options[0].reason or "")
    assert reply.options[0].evidence is not None, "it was tried"
    assert reply.memory_freed == 0 and draw(bench) == before


def test_a_step_that_takes_too_long_or_gains_nothing_is_undone(
    bench: Bench, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = optimizer.measure
    times = iter([10.0, 13.0, 9.8])

    def timed(*arguments: Any) -> Any:
        measured = measure(*arguments)
        fields = {name: getattr(measured, name) for name in measured.__struct_fields__}
        return type(measured)(**{**fields, "step_ms": next(times)})

    monkeypatch.setattr(optimizer, "measure", timed)
    reply = optimize(bench, MEMORY, BALANCED)
    assert "1.30 times as long as before, and Balanced allows 1.25" in (reply.options[0].reason or "")
    times = iter([10.0, 9.8, 9.8])
    reply = optimize(bench, SPEED, BASIC)
    assert "0.98 of the time of before: less than 3% is gained" in (reply.options[0].reason or "")
    times = iter([10.0, 9.6])
    reply = optimize(bench, SPEED, BASIC)
    assert reply.options[0].applied and reply.results.estimated_performance_improvement == pytest.approx(4.0)


def test_what_the_device_cannot_have_is_told_and_not_tried(bench: Bench) -> None:
    reply = optimize(bench, SPEED, MAXIMUM)
    told = {option.option: option for option in reply.options}
    for name, word in (("enable_tensor_rt", "TensorRT"), ("enable_onnx", "ONNX"), ("enable_compilation", "compil")):
        assert word in (told[name].reason or "") and told[name].evidence is None


def test_quality_is_held_against_float32(bench: Bench) -> None:
    configuration = ModelLoadConfiguration(precision=ModelPrecision.Int4)
    bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
    reply = optimize(bench, QUALITY, BASIC)
    assert reply.options[0].applied and reply.options[0].requested is ModelPrecision.Float32
    assert reply.results.quality_impact_score == 0 and reply.memory_freed < 0, "it grew"
    assert "already" in (optimize(bench, QUALITY, BASIC).options[0].reason or "")


def test_a_budget_that_is_spent_leaves_steps_untried(bench: Bench, before: bytes) -> None:
    reply = optimize(bench, MEMORY, MAXIMUM, parameters={"budget_seconds": 0.001})
    assert all("of the budget are left" in (option.reason or "") for option in reply.options)
    assert draw(bench) == before


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("budget_seconds", [0.001, 86_400], [0, -1, float("nan"), "5"]),
        ("steps", [1, 10_000], [0, 10_001, 1.5]),
        ("width", [8, 8192], [7, 9, 8200]),
        ("seed", [0], [-1, True]),
        ("prompts", [["a"], "a", ["a"] * 16], [[], ["a"] * 17, [3], 7]),
    ],
)
def test_every_parameter_has_its_bounds(name: str, right: list[Any], wrong: list[Any]) -> None:
    for value in right:
        settings_of(command(parameters={name: value}), Limits())
    for value in wrong:
        with pytest.raises(Fault) as raised:
            settings_of(command(parameters={name: value}), Limits())
        assert raised.value.info.details["field"] == f"parameters.{name}"


def test_an_unknown_parameter_is_answered(bench: Bench) -> None:
    (last,) = optimize(bench, SPEED, OptimizationLevel.NONE, parameters={"spin": 3}).options
    assert (last.option, last.requested, last.applied) == ("parameters.spin", 3, False)


# saving


@pytest.mark.parametrize("name", [SD15, "tiny-sd15-single.safetensors"])
def test_a_saved_model_is_a_model_that_draws_what_the_optimised_one_draws(bench: Bench, name: str) -> None:
    asked = command(MEMORY, BALANCED, model_id=name, save_optimized=True, optimized_model_name="small")
    outcome = bench.run(asked, name)
    reply = outcome.reply
    assert isinstance(reply, OptimizeModelReply), reply.error
    saved = reply.optimized_model
    assert saved is not None and (saved.id, saved.file_path) == ("small", str(bench.root / "optimized" / "small"))
    assert outcome.facts is not None and outcome.facts.saved is not None and outcome.facts.saved.model_id == "small"
    file = inspect(saved.file_path, Roots([bench.root]))
    assert file.size_bytes == saved.file_size and file.dtype == "BF16"
    with safe_open(file.weight_files[0], "pt") as opened:
        metadata = opened.metadata()
    assert metadata["vrambroker.made_from"] == name and metadata["modelspec.title"] == "small"
    assert json.loads(metadata["vrambroker.configuration"])["precision"] == "BFloat16"
    assert draw(bench, "small", "optimized/small") == draw(bench, name)


def test_a_model_in_fewer_bits_is_saved_with_what_quantizing_made_of_it(bench: Bench) -> None:
    reply = optimize(bench, MEMORY, OptimizationLevel.Aggressive, save_optimized=True)
    assert "precision" in reply.results.optimizations_applied and reply.optimized_model is not None
    assert reply.optimized_model.id == "tiny-sd15-memory-aggressive"
    quantized = draw(bench)
    assert draw(bench, "saved", "optimized/tiny-sd15-memory-aggressive") == quantized


def test_a_name_that_exists_is_refused_before_anything_is_tried(bench: Bench, before: bytes) -> None:
    (bench.root / "optimized" / "taken").mkdir(parents=True)
    error = bench.error(command(save_optimized=True, optimized_model_name="taken"), SD15)
    assert (error.code, error.details["field"]) == (ErrorCode.INVALID_ARGUMENT, "optimized_model_name")
    assert draw(bench) == before
    none = bench.reply(OptimizeModelReply, command(MEMORY, OptimizationLevel.NONE, save_optimized=True), SD15)
    assert none.optimized_model is None and "level None" in none.warnings[0]


def test_what_a_killed_worker_left_half_written_is_removed_and_what_another_writes_is_not(tmp_path: Path) -> None:
    gone, alive = tmp_path / ".one.999999999.part", tmp_path / f".two.{os.getppid()}.part"
    for folder in (gone, alive):
        folder.mkdir()
    with whole_folder(tmp_path / "made") as folder:
        (folder / "file").write_text("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, "made"])
    assert (tmp_path / "made" / "file").read_text() == "x"


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_disk_leaves_nothing_half_written_and_the_model_as_it_was(
    bench: Bench, before: bytes, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    if when == "before":
        usage = shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20)  # type: ignore[attr-defined]
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    else:
        written = iter(range(1))

        def full(*arguments: Any, **fields: Any) -> None:
            if next(written, None) is None:
                raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("worker.saving.save_file", full)
    error = bench.error(command(save_optimized=True), SD15)
    assert error.code is ErrorCode.INFERENCE_FAILED and error.details["field"] == "save_optimized"
    assert "could not be saved" in error.message
    left = list((bench.root / "optimized").iterdir()) if (bench.root / "optimized").exists() else []
    assert left == [] and draw(bench) == before


# what ends it


@pytest.mark.parametrize("at", ["before", "load", "run", "save"])
def test_a_cancel_at_any_phase_leaves_the_model_as_it_was(
    bench: Bench, before: bytes, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    stopped: list[Job] = []

    def stop(job: Job) -> None:
        stopped.append(job)
        job.cancel(ErrorCode.CANCELLED, "enough")
        job.check()

    def ending(module: Any, name: str, place: int) -> None:
        inner: Callable[..., Any] = getattr(module, name)
        calls = iter(range(place))

        def called(*arguments: Any, **fields: Any) -> Any:
            result = inner(*arguments, **fields)
            if next(calls, None) is None and not stopped:
                stop(next(one for one in arguments if isinstance(one, Job)))
            return result

        monkeypatch.setattr(module, name, called)

    match at:
        case "before":
            ending(optimizer, "measure", 0)
        case "load":
            ending(optimizer, "bring", 0)
        case "run":
            ending(optimizer, "measure", 1)
        case "save":
            resident = bench.engine.cache.get(SD15)
            assert resident is not None
            ending(type(resident.built), "save", 0)
    error = bench.error(command(save_optimized=True), SD15)
    assert stopped and error.code is ErrorCode.CANCELLED
    assert not list(bench.root.glob("optimized/*")) and draw(bench) == before


def test_a_run_that_fails_in_the_middle_is_a_reason_and_no_end(
    bench: Bench, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, calls = optimizer.measure, iter(range(1))

    def failing(*arguments: Any) -> Any:
        if next(calls, None) is None:
            raise Fault(ErrorCode.INFERENCE_FAILED, "the model drew values that are not finite")
        return measure(*arguments)

    monkeypatch.setattr(optimizer, "measure", failing)
    reply = optimize(bench)
    assert {option.reason for option in reply.options} == {"the model drew values that are not finite"}
    assert draw(bench) == before


def test_progress_counts_steps(bench: Bench) -> None:
    seen: list[Progress] = []
    outcome = bench.run(command(MEMORY, BALANCED), SD15, on_progress=lambda _, progress: seen.append(progress))
    assert outcome.reply.success
    steps = [(one.step, one.steps) for one in seen if one.step is not None]
    assert steps == [(1, 2), (2, 2)]


# the host's hints


def test_pressure_of_the_host_takes_this_models_copy_out_of_the_ram_tier(bench: Bench, before: bytes) -> None:
    resident = bench.engine.cache.get(SD15)
    assert resident is not None
    bench.engine.keeper.copier.finish(resident)
    assert bench.engine.ram.used_bytes > 0
    told = c.MemoryPressureContext(memory_pressure_detected=True, model_in_cache=True)
    mode = CoordinationMode.CACHE_AND_VRAM_OPTIMIZATION
    hints = {"coordination_mode": mode, "memory_pressure_context": told}
    reply = optimize(bench, SPEED, OptimizationLevel.NONE, **hints)
    found = reply.coordination
    assert found is not None and found.ram_tier is not None and found.ignored == []
    assert found.honoured == ["coordination_mode", "memory_pressure_context"]
    assert found.ram_tier.released_bytes > 0 and found.ram_tier.bytes == bench.engine.ram.used_bytes == 0
    assert draw(bench) == before
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert bench.engine.cache.listing() == [], "the host has it"


def test_hints_that_change_nothing_say_why(bench: Bench) -> None:
    calm = c.MemoryPressureContext(memory_pressure_detected=False, model_in_cache=True)
    elsewhere = c.MemoryPressureContext(memory_pressure_detected=True, model_in_cache=False)
    both = CoordinationMode.CACHE_AND_VRAM_OPTIMIZATION
    for mode, context, count in ((both, calm, 1), (both, elsewhere, 1), (None, calm, 1), (both, None, 1)):
        fields = {"coordination_mode": mode, "memory_pressure_context": context}
        found = optimize(bench, SPEED, OptimizationLevel.NONE, **fields).coordination
        assert found is not None and len(found.ignored) == count and all(hint.reason for hint in found.ignored)
    assert optimize(bench, SPEED, OptimizationLevel.NONE).coordination is None


def test_a_profile_has_nothing_to_optimise_and_says_so(virtual: Bench) -> None:
    asked = c.OptimizeModel(model_id=ONE, target=MEMORY, level=MAXIMUM)
    reply = virtual.reply(OptimizeModelReply, asked, ONE)
    assert reply.options and not any(option.applied for option in reply.options)
    assert all(option.reason for option in reply.options) and reply.optimized_model is None
    assert "a profile has no weights" in reply.warnings[0]
    assert reply.results.original_size_bytes == reply.results.optimized_size_bytes == 1000
