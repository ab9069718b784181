"""Adapters on real models: the sum that they add, the names they come under, and that nothing of them stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.enums import ComponentRole, ComponentStatus, ComponentType, Lane, LoadSource, ModelPrecision, Tier
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, ListComponentsReply, LoadComponentReply, LoadModelReply, UnloadModelReply
from protocol.replies import UnloadComponentReply as UnloadReply
from tests.worker.bench import Bench, worker_spec
from tests.worker.test_cpu import SD15, draw
from worker.lora import matched
from worker.running import TorchModel

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
CONV = "down_blocks.0.resnets.0.conv1"
TEXT = "encoder.layers.0.self_attn.q_proj"
SINGLE = "tiny-sd15-single.safetensors"
WIDTH = 16
Tensors = dict[str, torch.Tensor]


def pair(rank: int = 4, width: int = WIDTH, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rank, width, generator=generator), torch.randn(width, rank, generator=generator)


DOWN, UP = (half / 4 for half in pair())
FORMS: dict[str, Tensors] = {
    "peft": {f"unet.{LAYER}.lora_A.weight": DOWN, f"unet.{LAYER}.lora_B.weight": UP},
    "peft, no part": {f"base_model.model.{LAYER}.lora_A.weight": DOWN, f"base_model.model.{LAYER}.lora_B.weight": UP},
    "peft, named": {f"unet.{LAYER}.lora_A.default.weight": DOWN, f"unet.{LAYER}.lora_B.default.weight": UP},
    "diffusers": {f"unet.{LAYER}.lora.down.weight": DOWN, f"unet.{LAYER}.lora.up.weight": UP},
    "older diffusers": {
        f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.down.weight": DOWN,
        f"unet.{LAYER.removesuffix('.to_q')}.processor.to_q_lora.up.weight": UP,
    },
    "kohya": {
        f"lora_unet_{LAYER.replace('.', '_')}.lora_down.weight": DOWN,
        f"lora_unet_{LAYER.replace('.', '_')}.lora_up.weight": UP,
        f"lora_unet_{LAYER.replace('.', '_')}.alpha": torch.tensor(4.0),
    },
}


@pytest.fixture
def bench(model_root: Path, tmp_path: Path) -> Bench:
    """A device over the demonstration models and a folder of adapters."""
    torch.set_num_threads(1)
    (tmp_path / "adapters").mkdir()
    spec = worker_spec(
        model_root, model_roots=[str(model_root), str(tmp_path / "adapters")], runtime=str(tmp_path / "r")
    )
    made = Bench(model_root, spec)
    made.adapters = tmp_path / "adapters"  # type: ignore[attr-defined]
    return made


def written(bench: Bench, tensors: Tensors, name: str = "style") -> str:
    path = bench.adapters / f"{name}.safetensors"  # type: ignore[attr-defined]
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return str(path)


def load(bench: Bench, path: str, **fields: Any) -> LoadComponentReply:
    model = fields.pop("model", SD15)
    command = c.LoadComponent(model_id=model, component=ComponentRole.LORA, path=path, **fields)
    return bench.reply(LoadComponentReply, command, model)


def unload(bench: Bench, name: str = "", model: str = SD15) -> UnloadReply:
    command = c.UnloadComponent(model_id=model, component=ComponentRole.LORA, name=name)
    return bench.reply(UnloadReply, command, model)


def refused(bench: Bench, tensors: Tensors, model: str = SD15) -> Any:
    command = c.LoadComponent(model_id=model, component=ComponentRole.LORA, path=written(bench, tensors))
    before = bench.engine.device.gauge().used
    error = bench.error(command, model)
    assert bench.engine.device.gauge().used == before
    return error


def picture(bench: Bench, model: str = SD15, **fields: Any) -> bytes:
    outcome = bench.run(draw(model, **fields), model)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


def layer(bench: Bench, name: str = LAYER, part: str = "unet", model: str = SD15) -> Any:
    resident = bench.engine.cache.get(model)
    assert resident is not None and isinstance(resident.built, TorchModel)
    return resident.built._pipelines.components[part].get_submodule(name)


def fused(bench: Bench, change: torch.Tensor, name: str = LAYER, part: str = "unet") -> bytes:
    """The picture of the model with this change of a weight."""
    weight = layer(bench, name, part).weight
    before = weight.data.clone()
    weight.data += change
    try:
        return picture(bench)
    finally:
        weight.data.copy_(before)


def near(one: bytes, other: bytes) -> bool:
    """Whether two pictures are the same but for the rounding of one sum."""
    import io  # noqa: PLC0415

    import numpy as np  # noqa: PLC0415
    from PIL import Image  # noqa: PLC0415

    first, second = (np.asarray(Image.open(io.BytesIO(data)), dtype=float) for data in (one, other))
    return bool(np.abs(first - second).max() <= 2)


@pytest.mark.parametrize("form", list(FORMS))
def test_it_adds_its_product_under_every_name(bench: Bench, form: str) -> None:
    first = picture(bench)
    whole = bench.engine.device.gauge().used
    reply = load(bench, written(bench, FORMS[form]))
    assert reply.component.name == "style" and reply.component.type is ComponentType.LoRA
    assert reply.memory_added == reply.component.memory_usage == bench.engine.device.gauge().used - whole
    assert reply.memory_added == 2 * 4 * WIDTH * 4 and reply.replaced is None
    changed = picture(bench)
    gone = unload(bench)
    assert changed != first and near(changed, fused(bench, UP @ DOWN))
    assert gone.component.status is ComponentStatus.Available and gone.memory_added == -reply.memory_added
    assert bench.engine.device.gauge().used == whole and picture(bench) == first


def test_alpha_scale_and_convolutions_count(bench: Bench) -> None:
    picture(bench)
    down, up = torch.randn(3, WIDTH, 3, 3) / 3, torch.randn(WIDTH, 3, 1, 1)
    stem = f"lora_unet_{CONV.replace('.', '_')}"
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.5)}
    load(bench, written(bench, tensors), scale=0.5)
    change = torch.einsum("or,rikl->oikl", up[:, :, 0, 0], down) * 1.5 / 3 * 0.5
    changed = picture(bench)
    unload(bench)
    assert near(changed, fused(bench, change, CONV))


@pytest.mark.parametrize(
    "stem", [f"text_encoder.{TEXT}", f"text_encoder.text_model.{TEXT}", f"lora_te_text_model.{TEXT}"]
)
def test_text_encoders_have_adapters_too(bench: Bench, stem: str) -> None:
    first = picture(bench)
    down, up = pair(2, layer(bench, TEXT, "text_encoder").in_features)
    if stem.startswith("lora_te_"):
        stem = stem.replace(".", "_")
        tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
    else:
        tensors = {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    load(bench, written(bench, tensors))
    assert picture(bench) != first
    unload(bench)
    assert picture(bench) == first


@pytest.mark.parametrize(
    "name", [DemoModel.FLUX, DemoModel.SD3, DemoModel.QWEN_IMAGE, DemoModel.Z_IMAGE, DemoModel.SDXL]
)
def test_every_family_takes_one(bench: Bench, name: str) -> None:
    first = picture(bench, name)
    resident = bench.engine.cache.get(name)
    assert resident is not None and isinstance(resident.built, TorchModel)
    pipelines = resident.built._pipelines
    part = pipelines.family.denoiser.part
    stem, target = next((n, m) for n, m in pipelines.denoiser.named_modules() if n.endswith("to_q"))
    down, up = torch.randn(2, target.in_features), torch.randn(target.out_features, 2)
    for beginning in (f"{part}.", f"lora_unet_{stem.replace('.', '_')}"):
        kohya = beginning.startswith("lora_")
        if kohya and part != "unet":
            continue
        base = beginning if kohya else beginning + stem
        names = ("lora_down", "lora_up") if kohya else ("lora_A", "lora_B")
        tensors = {f"{base}.{names[0]}.weight": down, f"{base}.{names[1]}.weight": up}
        load(bench, written(bench, tensors), model=name)
        assert picture(bench, name) != first
        unload(bench, model=name)
        assert picture(bench, name) == first


def test_names_of_the_original_layout_go_through_the_librarys_conversion(bench: Bench) -> None:
    first = picture(bench, DemoModel.FLUX)
    target = layer(bench, "transformer_blocks.0.attn.to_q", "transformer", DemoModel.FLUX)
    stem = "lora_unet_double_blocks_0_img_attn_qkv"
    down, up = torch.randn(4, target.in_features), torch.randn(3 * target.out_features, 4)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(4.0)}
    load(bench, written(bench, tensors), model=DemoModel.FLUX)
    assert picture(bench, DemoModel.FLUX) != first


def test_several_act_together_and_those_of_a_picture_instead_of_them(bench: Bench) -> None:
    first = picture(bench)
    one, other = (
        written(bench, FORMS["peft"], "one"),
        written(bench, dict(zip(FORMS["peft"], pair(4, 16, 9), strict=True)), "other"),
    )
    load(bench, one)
    alone = picture(bench)
    load(bench, other, name="second", scale=0.5)
    both = picture(bench)
    assert len({first, alone, both}) == 3
    use = c.LoraUse
    assert picture(bench, loras=[use(name="one")]) == alone
    assert picture(bench, loras=[use(name="one"), use(name="second", scale=0.5)]) == both
    assert picture(bench, loras=[]) == picture(bench, loras=[use(name="one", scale=0.0)]) == first
    assert picture(bench, loras=[use(name="one", scale=2.0)]) not in (first, alone)
    assert picture(bench) == both
    listed = bench.reply(ListComponentsReply, c.ListComponents(model_id=SD15), SD15, lane=Lane.CONTROL).components
    assert [part.name for part in listed if part.type is ComponentType.LoRA] == ["one", "second"]
    unload(bench, "one")
    unload(bench, "second")
    assert picture(bench) == first


def test_the_same_name_again_is_another_scale_or_another_file(bench: Bench) -> None:
    picture(bench)
    path = written(bench, FORMS["peft"])
    load(bench, path)
    first, used = picture(bench), bench.engine.device.gauge().used
    reply = load(bench, path, scale=2.0)
    assert reply.replaced is not None and reply.replaced.file_path == path and reply.memory_added == 0
    assert picture(bench) != first and bench.engine.device.gauge().used == used
    assert picture(bench, loras=[c.LoraUse(name="style")]) == first


def test_one_that_is_not_there_is_refused_with_those_that_are(bench: Bench) -> None:
    picture(bench)
    load(bench, written(bench, FORMS["peft"]))
    error = bench.error(draw(SD15, loras=[c.LoraUse(name="stile")]), SD15)
    assert error.code is ErrorCode.INVALID_ARGUMENT and error.details["field"] == "loras[0].name"
    assert "it has style" in error.message and error.recovery[0].action == "load_component"
    command = c.UnloadComponent(model_id=SD15, component=ComponentRole.LORA, name="nobody")
    assert bench.error(command, SD15).details["field"] == "name"


def test_two_models_of_one_part_have_each_their_own(bench: Bench) -> None:
    first = picture(bench)
    assert picture(bench, SINGLE) == first
    load(bench, written(bench, FORMS["peft"]))
    assert picture(bench, SINGLE) == first != picture(bench)


def test_it_goes_with_its_model_to_the_ram_tier_and_back(bench: Bench) -> None:
    load_model = c.LoadModel(model_id=SD15)
    bench.reply(LoadModelReply, load_model, SD15)
    load(bench, written(bench, FORMS["peft"]))
    changed, used = picture(bench), bench.engine.device.gauge().used
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    resident = bench.engine.cache.get(SD15)
    assert resident is not None and resident.tier is Tier.RAM and bench.engine.device.gauge().used == 0
    assert bench.reply(LoadModelReply, load_model, SD15).cache.source is LoadSource.RAM
    assert bench.engine.device.gauge().used == used and picture(bench) == changed
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert bench.engine.device.gauge().used == 0 and len(bench.engine.device.components) == 0  # type: ignore[attr-defined]


def test_a_model_that_is_built_anew_says_what_it_is_without(bench: Bench) -> None:
    first = picture(bench)
    load(bench, written(bench, FORMS["peft"]))
    reply = bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, force=True), SD15)
    assert any("style" in warning for warning in reply.warnings) and picture(bench) == first


@pytest.mark.parametrize("precision", [ModelPrecision.BFloat16, ModelPrecision.Int8, ModelPrecision.Int4])
def test_it_acts_on_weights_of_every_precision(bench: Bench, precision: ModelPrecision) -> None:
    configuration = ModelLoadConfiguration(precision=precision)
    bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
    first = picture(bench)
    load(bench, written(bench, FORMS["peft"]))
    assert picture(bench) != first
    unload(bench)
    assert picture(bench) == first


BAD: dict[str, tuple[Callable[[], Tensors], ErrorCode, str]] = {
    "another model's": (
        lambda: {"unet.mid_block.no_such.to_q.lora_A.weight": DOWN, "unet.mid_block.no_such.to_q.lora_B.weight": UP},
        ErrorCode.MODEL_INCOMPATIBLE,
        "unet.mid_block.no_such.to_q",
    ),
    "other widths": (
        lambda: {f"unet.{LAYER}.lora_A.weight": torch.randn(4, 20), f"unet.{LAYER}.lora_B.weight": UP},
        ErrorCode.MODEL_INCOMPATIBLE,
        LAYER,
    ),
    "ranks that differ": (
        lambda: {f"unet.{LAYER}.lora_A.weight": torch.randn(3, WIDTH), f"unet.{LAYER}.lora_B.weight": UP},
        ErrorCode.MODEL_INCOMPATIBLE,
        LAYER,
    ),
    "NaN": (
        lambda: {f"unet.{LAYER}.lora_A.weight": DOWN * float("nan"), f"unet.{LAYER}.lora_B.weight": UP},
        ErrorCode.MODEL_CORRUPTED,
        "not finite",
    ),
    "infinity": (
        lambda: {f"unet.{LAYER}.lora_A.weight": DOWN, f"unet.{LAYER}.lora_B.weight": UP * float("inf")},
        ErrorCode.MODEL_CORRUPTED,
        "not finite",
    ),
    "half of a pair": (lambda: {f"unet.{LAYER}.lora_A.weight": DOWN}, ErrorCode.MODEL_CORRUPTED, "no up half"),
    "DoRA": (
        lambda: {**FORMS["peft"], f"unet.{LAYER}.dora_scale": torch.ones(WIDTH, 1)},
        ErrorCode.NOT_SUPPORTED,
        "dora_scale",
    ),
    "LoHa": (
        lambda: {f"lora_unet_{LAYER.replace('.', '_')}.hada_w1_a": DOWN},
        ErrorCode.NOT_SUPPORTED,
        "hada_w1_a",
    ),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_what_does_not_fit_is_refused_by_its_first_name_and_changes_nothing(bench: Bench, kind: str) -> None:
    first = picture(bench)
    make, code, words = BAD[kind]
    error = refused(bench, make())
    assert error.code is code and words in error.message, error.message
    assert picture(bench) == first


def test_a_whole_model_is_no_adapter(bench: Bench) -> None:
    picture(bench)
    path = str(bench.root / SINGLE)
    error = bench.error(c.LoadComponent(model_id=SD15, component=ComponentRole.LORA, path=path), SD15)
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE and "no LoRA" in error.message


def test_a_path_out_of_the_roots_or_none_is_refused(bench: Bench) -> None:
    picture(bench)
    outside = c.LoadComponent(model_id=SD15, component=ComponentRole.LORA, path="/etc/hostname")
    assert bench.error(outside, SD15).details["field"] == "path"
    error = bench.error(c.LoadComponent(model_id=SD15, component=ComponentRole.LORA), SD15)
    assert error.code is ErrorCode.MISSING_PARAMETER and "path" in error.message


def test_a_model_that_is_not_held_takes_none(bench: Bench) -> None:
    path = written(bench, FORMS["peft"])
    error = bench.error(c.LoadComponent(model_id=SD15, component=ComponentRole.LORA, path=path), SD15)
    assert error.code is ErrorCode.INVALID_ARGUMENT and error.details["field"] == "model_id"


def test_a_full_device_refuses_and_keeps_the_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = picture(bench)
    path = written(bench, FORMS["peft"])
    device: Any = bench.engine.device
    monkeypatch.setattr(device.ledger, "total_bytes", device.ledger.used_bytes + 100)
    error = bench.error(c.LoadComponent(model_id=SD15, component=ComponentRole.LORA, path=path), SD15)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and error.details["needed_bytes"] == 512
    monkeypatch.undo()
    assert picture(bench) == first


def test_the_tensors_of_many_layers_are_matched_each_to_its_own(bench: Bench) -> None:
    picture(bench)
    resident = bench.engine.cache.get(SD15)
    assert resident is not None and isinstance(resident.built, TorchModel)
    pipelines = resident.built._pipelines
    names = [name for name, one in pipelines.denoiser.named_modules() if isinstance(one, torch.nn.Linear)]
    tensors: Tensors = {}
    for name in names:
        one = pipelines.denoiser.get_submodule(name)
        stem = f"lora_unet_{name.replace('.', '_')}"
        tensors[f"{stem}.lora_down.weight"] = torch.randn(2, one.in_features)
        tensors[f"{stem}.lora_up.weight"] = torch.randn(one.out_features, 2)
    made = matched("many", tensors, pipelines, torch.float32)
    assert made.places == [("unet", name) for name in names] and made.ranks == [2]
