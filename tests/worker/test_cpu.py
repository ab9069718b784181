"""Real pipelines on the cpu device: bytes, precision, pictures, out of memory."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from demo.inventory import SINGLE_FILE_SOURCE, DemoModel
from modelfiles.model import inspect
from modelfiles.modes import modes_of
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.drawing import Mode
from protocol.enums import Delivery, ImageFormat, LoadSource, ModelPrecision, ModelStatus, ModelType, Tier
from protocol.errors import ErrorCode
from protocol.link import ModelRef
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization, ModelPerformanceOptimization
from protocol.replies import GenerateReply, LoadModelReply, UnloadModelReply
from tests.worker.bench import Bench, Outcome, worker_spec
from worker.devices.base import DrawOrder, Raster
from worker.job import Job, Progress
from worker.pictures import plain_png
from worker.running import TorchModel

SD15, SDXL, FLUX, SD3 = "tiny-sd15", "tiny-sdxl", "tiny-flux", "tiny-sd3"


def load(bench: Bench, name: str, precision: ModelPrecision = ModelPrecision.Auto) -> LoadModelReply:
    configuration = ModelLoadConfiguration(precision=precision)
    return bench.reply(LoadModelReply, c.LoadModel(model_id=name, configuration=configuration), name)


GREY = plain_png(Raster(width=64, height=64, rgb=bytes([200]) * 64 * 64 * 3))


def draw(name: str, **fields: object) -> c.Generate:
    chosen = {"prompt": "a small boat", "steps": 2, "seed": 7, "width": 64, "height": 64, **fields}
    return c.Generate(model_id=name, **chosen)  # type: ignore[arg-type]


def drawn(bench: Bench, model: str, **fields: object) -> Outcome:
    """A picture from text where the model draws that, else from another, within a mask where it needs one."""
    modes = modes_of(inspect(bench.root / model, Roots([bench.root])))
    names = [] if Mode.TEXT in modes else ["image-0"] if Mode.IMAGE in modes else ["image-0", "mask"]
    named = [c.Attachment(name=name, media_type="image/png", bytes=len(GREY)) for name in names]
    strength = 1.0 if names else None
    return bench.run(draw(model, attachments=named, strength=strength, **fields), model, [GREY] * len(names))


def weights(bench: Bench, name: str) -> list[torch.Tensor]:
    resident = bench.engine.cache.get(name)
    assert resident is not None and isinstance(resident.built, TorchModel)
    return [t for module in resident.built._pipelines.modules() for t in (*module.parameters(), *module.buffers())]


@pytest.mark.parametrize("name", list(DemoModel))
def test_every_family_loads_and_draws(cpu: Bench, name: str) -> None:
    reply = load(cpu, name)
    counted = sum(t.numel() * t.element_size() for t in weights(cpu, name))
    assert reply.memory_usage == reply.memory_added == counted == cpu.engine.device.gauge().used
    outcome = drawn(cpu, name, negative_prompt="rain")
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    image = Image.open(io.BytesIO(outcome.attachments[0]))
    assert (image.size, outcome.reply.steps_done) == ((64, 64), 2)
    timing = outcome.reply.timing
    assert all(isinstance(ms, float) for ms in (timing.encode_ms, timing.denoise_ms, timing.per_step_ms))
    assert outcome.facts is not None and (outcome.facts.peak_bytes or 0) > counted


@pytest.mark.parametrize(("single", "folder"), SINGLE_FILE_SOURCE.items())
def test_a_single_file_draws_what_its_folder_draws(cpu: Bench, single: DemoModel, folder: DemoModel) -> None:
    first = drawn(cpu, folder).attachments
    assert first and drawn(cpu, single).attachments == first


def test_equal_seeds_draw_equal_bytes_and_other_seeds_others(cpu: Bench) -> None:
    first, again, other = (cpu.run(draw(SD15, seed=seed), SD15).attachments for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_an_image_of_a_batch_is_that_of_its_own_seed(cpu: Bench) -> None:
    batch = cpu.run(draw(SD15, num_images=2), SD15)
    assert len(batch.attachments) == 2 and batch.attachments[0] != batch.attachments[1]


@pytest.mark.parametrize(
    ("precision", "dtype", "width"),
    [
        (ModelPrecision.Float32, torch.float32, 4),
        (ModelPrecision.Float16, torch.float16, 2),
        (ModelPrecision.BFloat16, torch.bfloat16, 2),
    ],
)
def test_precision_changes_type_and_bytes(
    cpu: Bench, precision: ModelPrecision, dtype: torch.dtype, width: int
) -> None:
    reply = load(cpu, SD15, precision)
    floats = [t for t in weights(cpu, SD15) if t.is_floating_point()]
    assert {t.dtype for t in floats} == {dtype}
    whole = sum(t.numel() * t.element_size() for t in weights(cpu, SD15) if not t.is_floating_point())
    assert reply.memory_usage == sum(t.numel() for t in floats) * width + whole
    option = reply.options[0]
    assert (option.option, option.applied, option.evidence and option.evidence["precision"]) == (
        "precision",
        True,
        precision.value,
    )


def test_auto_says_what_it_is(cpu: Bench) -> None:
    option = load(cpu, SD15).options[0]
    assert option.applied and option.reason is not None and option.reason.startswith("Auto is ")


def test_weights_are_private_copies(cpu: Bench, tmp_path: Path) -> None:
    copy = tmp_path / SD15
    shutil.copytree(cpu.root / SD15, copy)
    bench = Bench(tmp_path, worker_spec(tmp_path))
    before = bench.run(draw(SD15), SD15).attachments
    for file in copy.rglob("*.safetensors"):
        with file.open("r+b") as stream:
            stream.seek(-4096, 2)
            stream.write(b"\0" * 4096)
    assert bench.run(draw(SD15, load_if_needed=False), SD15).attachments == before


def test_a_placement_beyond_the_budget_raises_out_of_memory(model_root: Path) -> None:
    bench = Bench(model_root, worker_spec(model_root, budget_bytes=8 << 20))
    load(bench, SD15, ModelPrecision.Float32)
    resident = bench.engine.cache.get(SD15)
    assert resident is not None
    resident.built.step_aside()
    bench.engine.device.ledger.total_bytes = resident.bytes - 1  # type: ignore[attr-defined]
    with pytest.raises(torch.OutOfMemoryError):
        resident.built.promote(None)
    bench.engine.device.ledger.total_bytes += 1  # type: ignore[attr-defined]
    resident.built.promote(None)
    assert bench.engine.device.gauge().free == 0


def test_unload_frees_every_byte_and_ram_brings_the_same_model_back(cpu: Bench) -> None:
    first = cpu.run(draw(SD15), SD15).attachments
    used = cpu.engine.device.gauge().used
    reply = cpu.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert (reply.memory_freed, cpu.engine.device.gauge().used) == (used, 0)
    assert cpu.engine.cache.listing()[0].tier is Tier.RAM
    assert load(cpu, SD15).cache.source is LoadSource.RAM
    assert cpu.run(draw(SD15), SD15).attachments == first


def test_eviction_makes_room_for_another_model(model_root: Path) -> None:
    bench = Bench(model_root, worker_spec(model_root, budget_bytes=10 << 20, ram_budget_bytes=0))
    load(bench, SD15)
    load(bench, SDXL)
    assert [entry.model_id for entry in bench.engine.cache.listing()] == [SDXL]


def test_a_picture_can_start_from_a_picture(cpu: Bench) -> None:
    source = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(source, "PNG")
    data = source.getvalue()
    attachments = [c.Attachment(name="image-0", media_type="image/png", bytes=len(data))]
    for name in (SD15, FLUX):
        command = draw(name, steps=4, strength=0.5, attachments=attachments)
        outcome = cpu.run(command, name, [data])
        assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
        assert outcome.reply.steps_done == 2


def test_what_is_no_picture_is_refused(cpu: Bench) -> None:
    attachments = [c.Attachment(name="image-0", bytes=4)]
    outcome = cpu.run(draw(SD15, strength=0.5, attachments=attachments), SD15, [b"nope"])
    assert outcome.reply.error is not None and outcome.reply.error.code is ErrorCode.INVALID_ARGUMENT


def test_schedulers_go_by_name_and_an_unknown_one_lists_them(cpu: Bench) -> None:
    default = cpu.run(draw(SD15), SD15).attachments
    euler = cpu.run(draw(SD15, scheduler="EulerDiscreteScheduler"), SD15).attachments
    assert euler and euler != default
    assert cpu.run(draw(SD15, scheduler="euler"), SD15).attachments == euler
    error = cpu.error(draw(SD15, scheduler="subprocess"), SD15)
    assert error.code is ErrorCode.INVALID_ARGUMENT and "DPM++ 2M Karras" in error.message


@pytest.mark.parametrize("image_format", list(ImageFormat))
def test_formats_are_real(cpu: Bench, image_format: ImageFormat) -> None:
    outcome = cpu.run(draw(SD15, steps=1, image_format=image_format, delivery=Delivery.PATH), SD15)
    assert isinstance(outcome.reply, GenerateReply) and outcome.reply.images[0].path is not None
    with Image.open(outcome.reply.images[0].path) as image:
        assert (image.format or "").lower() == image_format.value
    assert outcome.reply.images[0].path.startswith(cpu.engine.spec.outputs)


def test_a_cancel_stops_between_steps(cpu: Bench) -> None:
    seen: list[int] = []

    def stop(job: Job, progress: Progress) -> None:
        if progress.step is not None:
            seen.append(progress.step)
            job.cancel(ErrorCode.CANCELLED, "enough")

    load(cpu, SD15)
    outcome = cpu.run(draw(SD15, steps=200), SD15, on_progress=stop)
    assert outcome.reply.state.value == "cancelled"
    assert len(seen) == 1
    held = cpu.engine.cache.listing()[0]
    assert (held.sessions, held.health) == (0, 1.0)


def test_values_that_are_not_finite_fail_and_lower_the_health(cpu: Bench) -> None:
    load(cpu, SD15)
    with torch.no_grad():
        weights(cpu, SD15)[0].fill_(float("nan"))
    error = cpu.error(draw(SD15), SD15)
    assert error.code is ErrorCode.INFERENCE_FAILED
    assert cpu.engine.cache.listing()[0].health == 0.0


def test_a_share_of_the_device_bounds_the_work_too(cpu: Bench) -> None:
    used = load(cpu, SD15).memory_usage
    fraction = (used + 1000) / cpu.engine.spec.budget_bytes
    memory = ModelMemoryOptimization(memory_fraction=fraction)
    configuration = ModelLoadConfiguration(memory_optimization=memory)
    cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
    error = cpu.error(draw(SD15, allow_degraded=False), SD15)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY
    assert cpu.engine.sampler.pressure().level.value == "critical"


def test_a_folder_that_turns_unsafe_is_refused_right_before_loading(cpu: Bench, tmp_path: Path) -> None:
    shutil.copytree(cpu.root / SD15, tmp_path / SD15)
    bench = Bench(tmp_path, worker_spec(tmp_path))
    ref = ModelRef(
        model_id=SD15,
        path=str(tmp_path / SD15),
        type=ModelType.SD15,
        size_bytes=1,
        status=ModelStatus.Available,
    )
    index = tmp_path / SD15 / "model_index.json"
    index.write_text(index.read_text().replace("UNet2DConditionModel", "EvilModel"))
    error = bench.error(c.LoadModel(model_id=SD15), model=ref)
    assert error.code is ErrorCode.UNSAFE_MODEL


def test_a_failed_decode_leaves_the_vae_in_its_own_type(cpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration = ModelLoadConfiguration(precision=ModelPrecision.Float16)
    cpu.reply(LoadModelReply, c.LoadModel(model_id=SDXL, configuration=configuration), SDXL)
    resident = cpu.engine.cache.get(SDXL)
    assert resident is not None and isinstance(resident.built, TorchModel)
    vae = resident.built._pipelines.components["vae"]
    first = cpu.run(draw(SDXL), SDXL).attachments

    def fails(*_: object, **__: object) -> None:
        vae.to(torch.float32)  # what diffusers does before it decodes
        raise RuntimeError("in the middle of the decoding")

    with monkeypatch.context() as patch:
        patch.setattr(vae, "decode", fails)
        assert cpu.error(draw(SDXL), SDXL).code is ErrorCode.INFERENCE_FAILED
    assert {t.dtype for t in weights(cpu, SDXL) if t.is_floating_point()} == {torch.float16}
    assert cpu.run(draw(SDXL), SDXL).attachments == first


def test_what_comes_after_a_picture_never_costs_it(cpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("the sensor is gone")

    monkeypatch.setattr(cpu.engine.keeper, "expire", fails)
    monkeypatch.setattr(cpu.engine.sampler, "pressure", fails)
    monkeypatch.setattr(cpu.engine.sampler, "sample", fails)
    outcome = cpu.run(draw(SD15), SD15)
    assert isinstance(outcome.reply, GenerateReply) and len(outcome.attachments) == 1
    assert outcome.reply.memory_pressure is None and "memory_pressure" in outcome.reply.not_measured
    assert cpu.engine.report().telemetry is None


def test_what_the_safety_checker_blackened_is_said(model_root: Path, tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion.safety_checker import (  # noqa: PLC0415
        StableDiffusionSafetyChecker,
    )
    from transformers import CLIPConfig, CLIPImageProcessor  # noqa: PLC0415

    folder = tmp_path / SD15
    shutil.copytree(model_root / SD15, folder)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    vision = {**sizes, "image_size": 32, "patch_size": 16}
    checker = StableDiffusionSafetyChecker(
        CLIPConfig(text_config=sizes, vision_config=vision, projection_dim=8)  # type: ignore[arg-type]
    )
    torch.nn.init.constant_(checker.concept_embeds_weights, -10.0)  # everything is over the threshold
    checker.save_pretrained(folder / "safety_checker")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder / "feature_extractor")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    bench = Bench(tmp_path, worker_spec(tmp_path))
    outcome = bench.run(draw(SD15, num_images=2), SD15)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    assert [image.nsfw_content_detected for image in outcome.reply.images] == [True, True]
    assert any("safety checker blackened 2 of 2" in warning for warning in outcome.reply.warnings)
    assert Image.open(io.BytesIO(outcome.attachments[0])).getextrema() == ((0, 0),) * 3


def test_a_model_without_a_checker_says_so_by_null(cpu: Bench) -> None:
    reply = cpu.reply(GenerateReply, draw(SD15), SD15)
    assert [image.nsfw_content_detected for image in reply.images] == [None]


def test_a_flag_without_effect_is_no_other_configuration(cpu: Bench) -> None:
    load(cpu, SD15)
    wanted = ModelLoadConfiguration(
        performance_optimization=ModelPerformanceOptimization(enable_compilation=True), parameters={"nothing": 1}
    )
    again = cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=wanted), SD15)
    assert again.cache.source is LoadSource.VRAM
    answered = {outcome.option: outcome.applied for outcome in again.options}
    assert answered == {"precision": True, "enable_compilation": False, "parameters.nothing": False}
    plain = cpu.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=ModelLoadConfiguration()), SD15)
    assert (plain.cache.source, [o.option for o in plain.options]) == (LoadSource.VRAM, ["precision"])


def rewrite(path: Path, factor: float, metadata: dict[str, str]) -> None:
    """The file anew, every weight times `factor`."""
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    tensors = {key: t * factor if t.is_floating_point() else t for key, t in load_file(path).items()}
    save_file(tensors, path.with_suffix(".new"), metadata={"format": "pt", **metadata})
    path.with_suffix(".new").replace(path)


@pytest.fixture(params=["folder", "single"])
def own_copy(request: pytest.FixtureRequest, model_root: Path, tmp_path: Path) -> tuple[Bench, str, Path]:
    """A bench over a model of its own: its name, and one of its weight files."""
    if request.param == "folder":
        shutil.copytree(model_root / SD15, tmp_path / "models" / SD15)
        name, weights_file = SD15, f"{SD15}/unet/diffusion_pytorch_model.safetensors"
    else:
        name = weights_file = "tiny-sd15-single.safetensors"
        (tmp_path / "models").mkdir()
        shutil.copy(model_root / name, tmp_path / "models" / name)
        shutil.copytree(model_root / "tiny-sd15-single", tmp_path / "models" / "tiny-sd15-single")
    bench = Bench(tmp_path / "models", worker_spec(tmp_path / "models"))
    return bench, name, tmp_path / "models" / weights_file


@pytest.mark.parametrize("tier", [Tier.VRAM, Tier.RAM])
def test_a_replaced_file_is_loaded_anew_and_the_reply_says_why(own_copy: tuple[Bench, str, Path], tier: Tier) -> None:
    bench, name, path = own_copy
    bench.reply(LoadModelReply, c.LoadModel(model_id=name, keep_alive=900.0, pin=tier is Tier.VRAM), name)
    before = bench.run(draw(name), name).attachments
    if tier is Tier.RAM:
        bench.run(c.UnloadModel(model_id=name), name)
    rewrite(path, 0.5, {})
    drawn = bench.run(draw(name), name)
    assert isinstance(drawn.reply, GenerateReply) and drawn.attachments != before
    assert any(f"{path.name} has changed" in warning for warning in drawn.reply.warnings)
    resident = bench.engine.cache.get(name)
    assert resident is not None and resident.pinned is (tier is Tier.VRAM)
    again = bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
    assert (again.cache.source, again.warnings) == (LoadSource.VRAM, [])
    assert bench.run(draw(name), name).attachments == drawn.attachments


def test_metadata_written_into_a_header_is_no_other_model(own_copy: tuple[Bench, str, Path]) -> None:
    bench, name, path = own_copy
    bench.run(draw(name), name)
    rewrite(path, 1.0, {"modelspec.title": "another title"})
    again = bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
    assert (again.cache.source, again.warnings) == (LoadSource.VRAM, [])


def test_a_replacement_that_cannot_be_loaded_leaves_the_old_model(own_copy: tuple[Bench, str, Path]) -> None:
    bench, name, path = own_copy
    before = bench.run(draw(name), name).attachments
    whole = path.read_bytes()
    path.write_bytes(whole[:-5000])
    ref = ModelRef(
        model_id=name,
        path=str(bench.root / name),
        type=ModelType.SD15,
        size_bytes=len(whole),
        status=ModelStatus.Available,
    )
    reply = bench.run(c.LoadModel(model_id=name), model=ref).reply
    assert reply.error is not None and reply.error.code is ErrorCode.MODEL_CORRUPTED
    resident = bench.engine.cache.get(name)
    assert resident is not None and resident.tier is Tier.VRAM
    path.write_bytes(whole)
    assert bench.run(draw(name), name).attachments == before


def test_a_picture_beyond_the_side_limit_is_refused_and_one_at_it_is_drawn(model_root: Path) -> None:
    bench = Bench(model_root, worker_spec(model_root, max_side=64))
    for side, well in ((64, True), (72, False)):
        source = io.BytesIO()
        Image.new("RGB", (side, 8), "teal").save(source, "PNG")
        data = source.getvalue()
        attachments = [c.Attachment(name="image-0", media_type="image/png", bytes=len(data))]
        reply = bench.run(draw(SD15, strength=0.5, attachments=attachments), SD15, [data]).reply
        assert isinstance(reply, GenerateReply) is well
        assert well or (reply.error is not None and "attachments[0] is '72 x 8'" in reply.error.message)


def test_a_runs_memory_is_derived_before_it_is_measured(model_root: Path, tmp_path: Path) -> None:
    """On a device that holds two models and no work beside them, a draw has the other one leave."""
    names = ("tiny-sd15", "tiny-sdxl")
    sizes = {}
    for name in names:
        bench = Bench(model_root, worker_spec(model_root))
        sizes[name] = bench.reply(LoadModelReply, c.LoadModel(model_id=name), name).memory_usage
    command = c.Generate(model_id=names[0], prompt="x", steps=1, seed=1, width=64, height=64)
    bench = Bench(model_root, worker_spec(model_root, budget_bytes=sum(sizes.values()) + 1000))
    for name in (names[1], names[0]):
        bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
    bench.reply(GenerateReply, command, names[0])
    held = {one.model_id: one.tier for one in bench.engine.cache.listing()}
    assert held == {names[0]: Tier.VRAM, names[1]: Tier.RAM}


@pytest.mark.parametrize(
    "name", ["tiny-sd15", "tiny-sd21", "tiny-sdxl", "tiny-sd3", "tiny-flux", "tiny-qwen-image", "tiny-z-image"]
)
def test_what_is_derived_is_near_what_is_measured(model_root: Path, name: str) -> None:
    bench = Bench(model_root, worker_spec(model_root))
    bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
    resident = bench.engine.cache.get(name)
    assert resident is not None
    order = DrawOrder(prompt="x", negative_prompt="", width=128, height=128, steps=2, guidance_scale=None, seeds=[1])
    derived = resident.built.working_bytes(order)
    bench.reply(GenerateReply, c.Generate(model_id=name, prompt="x", steps=2, width=128, height=128), name)
    assert 0.7 < derived / resident.built.working_bytes(order) < 3.0
