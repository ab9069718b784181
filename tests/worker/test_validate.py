"""What a validation finds: whole files and damaged ones, what fits and what does not, beliefs, digests, estimates."""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cli.app import app
from modelfiles.headers import read_header
from protocol import commands as c
from protocol.enums import LoadSource, ModelPrecision, Severity, ValidationLevel
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, LoadModelReply, ValidateModelReply
from tests.worker.bench import Bench, assignment, model_ref, worker_spec
from worker.devices.cpu import CpuDevice
from worker.job import Job
from worker.validation import contents
from worker.validation.fitness import SUBSTITUTE, WEIGHTS

SD15, SINGLE, SDXL = "tiny-sd15", "tiny-sd15-single.safetensors", "tiny-sdxl"
UNET = "unet/diffusion_pytorch_model.safetensors"
Change = Callable[[dict[str, torch.Tensor]], None]
BASIC, STANDARD, COMPREHENSIVE = ValidationLevel.BASIC, ValidationLevel.STANDARD, ValidationLevel.COMPREHENSIVE


def validate(bench: Bench, name: str, level: ValidationLevel = STANDARD, **fields: Any) -> ValidateModelReply:
    return bench.reply(ValidateModelReply, c.ValidateModel(model_id=name, validation_level=level, **fields), name)


def errors(reply: ValidateModelReply) -> list[tuple[ErrorCode, str | None]]:
    return [(issue.code, issue.field) for issue in reply.issues if issue.severity is Severity.ERROR]


def warned(reply: ValidateModelReply) -> list[str | None]:
    return [issue.field for issue in reply.issues if issue.severity is Severity.WARNING]


@pytest.fixture
def copied(model_root: Path, tmp_path: Path) -> Bench:
    """A root of its own with one folder and one single file, which a test may change."""
    root = tmp_path / "models"
    root.mkdir()
    shutil.copytree(model_root / SD15, root / SD15)
    shutil.copy(model_root / SINGLE, root)
    shutil.copytree(model_root / "tiny-sd15-single", root / "tiny-sd15-single")
    torch.set_num_threads(1)
    return Bench(root, worker_spec(root, runtime=str(tmp_path / "runtime")))


def rewrite(
    path: Path, change: Callable[[dict[str, torch.Tensor]], None], metadata: dict[str, str] | None = None
) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


@pytest.mark.parametrize("name", [SD15, SINGLE, SDXL])
@pytest.mark.parametrize("level", list(ValidationLevel))
def test_a_whole_model_is_valid_at_every_level(cpu: Bench, name: str, level: ValidationLevel) -> None:
    reply = validate(cpu, name, level)
    assert reply.is_valid and reply.is_compatible and not errors(reply)
    assert reply.validation_details["file"]["size_bytes"] == model_ref(cpu.root, name).size_bytes
    assert cpu.engine.cache.listing() == [] and cpu.engine.device.gauge().used == 0, "nothing is loaded"
    seen = {phase for phase in ("tensors", "hash", "shapes") if isinstance(getattr(reply.timing, f"{phase}_ms"), float)}
    assert seen == {BASIC: set(), STANDARD: {"tensors", "hash"}, COMPREHENSIVE: {"tensors", "hash", "shapes"}}[level]


def test_a_file_cut_short_is_not_valid_and_the_command_succeeds(copied: Bench) -> None:
    path = copied.root / SINGLE
    ref = model_ref(copied.root, SINGLE)
    path.write_bytes(path.read_bytes()[:-4])
    job = Job(assignment(c.ValidateModel(), ref), json.dumps({"action": "validate_model", "model_id": SINGLE}).encode())
    reply = copied.engine.run(job).reply
    assert isinstance(reply, ValidateModelReply), reply.error
    assert reply.success and not reply.is_valid and not reply.is_compatible and reply.compatibility_score == 0
    assert errors(reply)[0][0] is ErrorCode.MODEL_CORRUPTED
    path.unlink()
    gone = copied.engine.run(Job(assignment(c.ValidateModel(), ref), job.body)).reply
    assert isinstance(gone, ValidateModelReply)
    assert errors(gone)[0][0] is ErrorCode.MODEL_NOT_FOUND and not gone.validation_details["file"]["exists"]


def test_no_number_is_found_in_a_sample_and_one_behind_it_by_looking_at_all(copied: Bench) -> None:
    path = copied.root / SD15 / UNET
    names = list(load_file(path))
    large = max(names, key=lambda name: load_file(path)[name].numel())

    def spoil(where: int, value: float) -> Change:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors[large].view(-1)[where] = value

        return change

    rewrite(path, spoil(-1, float("nan")))
    assert validate(copied, SD15, STANDARD).is_valid
    found = validate(copied, SD15, COMPREHENSIVE)
    assert not found.is_valid and errors(found) == [(ErrorCode.MODEL_CORRUPTED, large)]
    rewrite(path, spoil(0, float("nan")))
    assert errors(validate(copied, SD15, STANDARD)) == [(ErrorCode.MODEL_CORRUPTED, large)]
    rewrite(path, spoil(0, float("inf")))
    rewrite(path, spoil(-1, 1.0))
    infinite = validate(copied, SD15, COMPREHENSIVE)
    assert infinite.is_valid and warned(infinite) == [large]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_values_of_every_type_are_told_apart(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, -1.5, 3.0, 448.0]).to(dtype)
    for special in (None, "nan", "inf", "-inf"):
        tensor = values.clone() if special is None else torch.cat([values, torch.tensor([float(special)]).to(dtype)])
        save_file({"t": tensor}, tmp_path / "m.safetensors")
        header = read_header(tmp_path / "m.safetensors")
        found = contents.not_finite([(header, header.tensors)], lambda: None, whole=False)
        assert (found.not_numbers, found.infinite) == (["t"] * (special == "nan"), ["t"] * (special in ("inf", "-inf")))


def test_a_shape_that_a_class_does_not_ask_for_is_found_by_building_alone(copied: Bench) -> None:
    path = copied.root / SD15 / "vae" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "layers_per_block": config["layers_per_block"] + 1}))
    assert validate(copied, SD15, STANDARD).is_valid
    found = validate(copied, SD15, COMPREHENSIVE)
    assert not found.is_valid and errors(found)[0][0] in (ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.MODEL_CORRUPTED)
    assert "vae" in found.issues[0].message


def test_what_the_host_believes_is_held_against_the_file(cpu: Bench) -> None:
    size = model_ref(cpu.root, SD15).size_bytes
    right = c.FileValidationContext(file_exists=True, file_size=size, model_type="sd15", cache_available=True)
    reply = validate(cpu, SD15, file_validation_context=right)
    assert warned(reply) == [] and reply.validation_details["cache"]["host_says"] is True
    wrong = c.FileValidationContext(file_exists=False, file_size=size + 1, model_type="SDXL")
    reply = validate(cpu, SD15, file_validation_context=wrong)
    assert warned(reply) == ["file_exists", "file_size", "model_type"] and reply.is_valid
    assert warned(validate(cpu, SD15, model_type="Flux")) == ["model_type"]


def test_parts_that_are_not_asked_for_are_passed_and_count_for_nothing(model_root: Path) -> None:
    bench = Bench(model_root, worker_spec(model_root, budget_bytes=1 << 20))
    asked = validate(bench, SD15)
    assert not asked.is_compatible and asked.is_valid
    reply = validate(bench, SD15, check_memory=False, check_compute=False, check_driver=False)
    for part in ("memory", "compute", "driver"):
        found = getattr(reply.validation_results, f"{part}_validation")
        assert (found.passed, found.score, found.message) == (True, 1.0, "not asked for")
    assert reply.is_compatible and reply.compatibility_score == 1.0
    expected = (WEIGHTS["compute"] + WEIGHTS["platform"] + WEIGHTS["driver"]) / sum(WEIGHTS.values())
    assert asked.compatibility_score == pytest.approx(expected, abs=1e-3), "memory scores 0, the others 1"


def test_what_does_not_fit_comes_with_commands_that_can_be_typed(model_root: Path) -> None:
    weights = validate(Bench(model_root, worker_spec(model_root)), SD15).validation_results.memory_validation.details
    budget = int(weights["weights_bytes"] * 0.6)
    bench = Bench(model_root, worker_spec(model_root, budget_bytes=budget))
    reply = validate(bench, SD15)
    memory = reply.validation_results.memory_validation
    assert not memory.passed and memory.details["total_bytes"] == budget
    assert reply.recommendations
    for line in reply.recommendations:
        words = shlex.split(line)
        assert words[0] == "vrambroker"
        result = CliRunner().invoke(app, [*words[1:], "--help"])
        assert result.exit_code == 0, (line, result.output)
    recovery = [one for issue in reply.issues for one in issue.recovery if one.action == "load_model"]
    smaller = ModelPrecision(recovery[0].parameters["configuration"]["precision"])
    loaded = bench.reply(
        LoadModelReply, c.LoadModel(model_id=SD15, configuration=ModelLoadConfiguration(precision=smaller)), SD15
    )
    assert loaded.memory_usage <= budget, "what is recommended works"


def test_evictable_models_are_room_and_pinned_ones_are_not(model_root: Path) -> None:
    size = model_ref(model_root, SDXL).size_bytes
    bench = Bench(model_root, worker_spec(model_root, budget_bytes=size + (1 << 20)))
    bench.reply(LoadModelReply, c.LoadModel(model_id=SDXL), SDXL)
    reply = validate(bench, SD15)
    details = reply.validation_results.memory_validation.details
    assert (details["fits_now"], details["fits_after_eviction"]) == (False, True) and reply.is_compatible
    bench.engine.cache.pin(SDXL, pinned=True)
    reply = validate(bench, SD15)
    assert not reply.is_compatible and reply.validation_results.memory_validation.details["pinned_bytes"] > 0
    assert validate(bench, SDXL).is_compatible, "what is there fits"


def test_a_type_that_the_device_takes_another_for_scores_less(cpu: Bench) -> None:
    own, other = validate(cpu, SD15), validate(cpu, SDXL)
    assert own.validation_results.compute_validation.score == 1.0
    compute = other.validation_results.compute_validation
    assert (compute.passed, compute.score) == (True, SUBSTITUTE)
    assert (compute.details["file_precision"], compute.details["precision"]) == ("Float16", "BFloat16")
    assert set(compute.details["tried"].values()) == {"computes"}
    assert other.compatibility_score == pytest.approx(1 - WEIGHTS["compute"] * (1 - SUBSTITUTE), abs=1e-4)


def test_a_type_that_does_not_compute_here_is_not_compatible(cpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CpuDevice, "computes", lambda _: {ModelPrecision.Float32: "no such kernel"})
    reply = validate(cpu, SD15)
    assert reply.is_valid and not reply.is_compatible
    assert "no such kernel" in reply.validation_results.compute_validation.message


def test_features_say_of_each_option_whether_a_load_would_have_it(cpu: Bench) -> None:
    found = validate(cpu, SD15).validation_results.feature_validations
    assert found["enable_cpu_offloading"].passed and found["precision.Int8"].passed and found["inpaint"].passed
    assert not found["enable_tensor_rt"].passed and "TensorRT" in found["enable_tensor_rt"].message
    assert found["precision.Int8"].details["weights_bytes"] < found["precision.Float16"].details["weights_bytes"]


def test_digests_are_those_of_the_file_and_are_made_once(copied: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied.root / SINGLE
    assert "hashes" not in validate(copied, SINGLE, STANDARD).validation_details
    data = path.read_bytes()
    told = validate(copied, SINGLE, COMPREHENSIVE).validation_details["hashes"][SINGLE]
    behind = data[8 + int.from_bytes(data[:8], "little") :]
    whole = hashlib.sha256(data).hexdigest()
    assert told == {
        "file_sha256": whole,
        "auto_v2": whole[:10],
        "tensor_sha256": hashlib.sha256(behind).hexdigest(),
        "blake3": blake3(data).hexdigest(),
    }
    monkeypatch.setattr(contents, "digests", lambda *_: pytest.fail("they are known"))
    assert validate(copied, SINGLE, STANDARD).validation_details["hashes"][SINGLE] == told
    monkeypatch.undo()
    rewrite(path, lambda tensors: tensors[next(iter(tensors))].add_(1))
    assert "hashes" not in validate(copied, SINGLE, STANDARD).validation_details, "it is another file now"


def test_a_stated_digest_that_is_not_that_of_the_tensors_is_told(copied: Bench) -> None:
    path = copied.root / SINGLE
    rewrite(path, lambda _: None)
    true = validate(copied, SINGLE, COMPREHENSIVE).validation_details["hashes"][SINGLE]["tensor_sha256"]
    rewrite(path, lambda _: None, {"modelspec.hash_sha256": f"0x{true}"})
    assert warned(validate(copied, SINGLE, COMPREHENSIVE)) == []
    rewrite(path, lambda tensors: tensors[next(iter(tensors))].add_(1), {"modelspec.hash_sha256": f"0x{true}"})
    assert warned(validate(copied, SINGLE, COMPREHENSIVE)) == ["modelspec.hash_sha256"]


@pytest.mark.parametrize("level", [STANDARD, COMPREHENSIVE])
def test_a_validation_stops_where_it_is_cancelled(cpu: Bench, level: ValidationLevel) -> None:
    command = c.ValidateModel(model_id=SD15, validation_level=level)
    body = json.dumps({"action": "validate_model", "model_id": SD15, "validation_level": level.value}).encode()
    job = Job(assignment(command, model_ref(cpu.root, SD15)), body)
    check, calls = job.check, iter(range(3))

    def cancelled() -> None:
        if next(calls, None) is None:
            job.cancel(ErrorCode.CANCELLED, "enough")
        check()

    job.check = cancelled  # type: ignore[method-assign]
    reply = cpu.engine.run(job).reply
    assert reply.error is not None and reply.error.code is ErrorCode.CANCELLED


def test_a_path_of_another_model_than_the_id_is_refused(cpu: Bench) -> None:
    own = validate(cpu, SD15, model_path=str(cpu.root / SD15))
    assert own.is_valid
    error = cpu.error(c.ValidateModel(model_id=SD15, model_path=str(cpu.root / SDXL)), SD15)
    assert (error.code, error.details["field"]) == (ErrorCode.INVALID_ARGUMENT, "model_path")


def test_an_estimate_is_the_mean_of_what_was_measured_and_before_that_says_that_it_is_derived(cpu: Bench) -> None:
    assert validate(cpu, SD15).performance_estimation is None
    before = validate(cpu, SD15, estimate_performance=True)
    assert before.validation_details["performance"]["basis"] == "estimated"
    assert before.performance_estimation is not None and 0 < before.performance_estimation.confidence_score < 0.5
    told = before.validation_details["performance"]
    rate = told["measured_operations_per_second"] * told["efficiency"]
    expected = told["operations"] / rate * 1000
    assert before.performance_estimation.estimated_inference_time == pytest.approx(expected)
    command = c.Generate(model_id=SD15, prompt="x", steps=1, seed=1, width=64, height=64)
    for _ in range(3):
        assert isinstance(cpu.run(command, SD15).reply, GenerateReply)
    after = validate(cpu, SD15, estimate_performance=True)
    resident = cpu.engine.cache.get(SD15)
    assert resident is not None and after.performance_estimation is not None
    assert after.validation_details["performance"]["basis"] == "measured"
    assert after.performance_estimation.estimated_inference_time == pytest.approx(sum(resident.run_ms) / 3)
    assert after.performance_estimation.confidence_score == 0.75
    assert after.performance_estimation.estimated_memory_usage == resident.highest_bytes
    assert "performance_estimation.estimated_power_consumption" in after.not_measured
    assert cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15).cache.source is LoadSource.VRAM, "left in place"


def test_an_adapter_is_whole_and_told_to_be_one(copied: Bench) -> None:
    name = "lora.safetensors"
    down, up = torch.zeros(4, 32), torch.zeros(32, 4)
    key = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, copied.root / name)
    reply = validate(copied, name, COMPREHENSIVE)
    assert reply.is_valid and [issue.severity for issue in reply.issues] == [Severity.INFO]
    assert reply.issues[0].recovery[0].action == "load_component"
