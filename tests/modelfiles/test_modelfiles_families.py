from __future__ import annotations

from pathlib import Path

import pytest
from model_bytes import SD15_NAMES, tensor_file

from modelfiles.families.sd21 import CROSS_ATTENTION
from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol.enums import ComponentType, ModelType

UNET = "model.diffusion_model."


@pytest.mark.parametrize(
    ("family", "names"),
    [
        (ModelType.SD15, SD15_NAMES),
        (ModelType.SD21, [*SD15_NAMES[:3], "cond_stage_model.model.token_embedding.weight"]),
        (ModelType.SDXL, [*SD15_NAMES[:3], "conditioner.embedders.1.model.positional_embedding"]),
        (ModelType.SD3, [UNET + "joint_blocks.0.context_block.adaLN_modulation.1.bias"]),
        (ModelType.SD3, ["transformer_blocks.0.norm1_context.linear.weight", "pos_embed.proj.weight"]),
        (ModelType.Flux, ["double_blocks.0.img_attn.norm.key_norm.scale"]),
        (ModelType.Flux, [UNET + "double_blocks.0.img_attn.norm.key_norm.scale"]),
        (ModelType.Flux, ["single_transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.to_q.weight"]),
        (ModelType.UNet, SD15_NAMES[:2]),
        (
            ModelType.UNet,
            ["down_blocks.0.resnets.0.a", "up_blocks.0.resnets.0.a", "time_embedding.linear_1.weight"],
        ),
        (ModelType.VAE, ["decoder.conv_in.weight", "encoder.conv_in.weight"]),
        (ModelType.VAE, ["first_stage_model.decoder.conv_in.weight"]),
        (ModelType.ControlNet, ["control_model.time_embed.0.weight", "control_model.input_blocks.0.0.weight"]),
        (ModelType.ControlNet, ["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.a"]),
        (ModelType.LoRA, ["lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight"]),
        (ModelType.LoRA, ["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"]),
        (ModelType.TextEncoder, ["text_model.embeddings.token_embedding.weight"]),
        (ModelType.TextEncoder, ["encoder.block.0.layer.0.SelfAttention.q.weight"]),
        (ModelType.Unknown, ["something.else"]),
    ],
)
def test_family_is_told_by_the_tensors_and_not_by_the_file_name(
    tmp_path: Path, family: ModelType, names: list[str]
) -> None:
    path = tensor_file(tmp_path / "flux-sdxl-lora-vae.safetensors", names)
    assert inspect(path, Roots([tmp_path])).type is family


@pytest.mark.parametrize(("width", "family"), [(768, ModelType.SD15), (1024, ModelType.SD21)])
def test_width_of_the_text_embedding_tells_sd2_from_sd1(tmp_path: Path, width: int, family: ModelType) -> None:
    shapes = {**{name: [1] for name in SD15_NAMES}, CROSS_ATTENTION: [2, width]}
    assert inspect(tensor_file(tmp_path / "m.safetensors", shapes), Roots([tmp_path])).type is family


def test_single_file_lists_its_parts_with_the_bytes_of_their_tensors(tmp_path: Path) -> None:
    found = inspect(tensor_file(tmp_path / "m.safetensors", SD15_NAMES), Roots([tmp_path]))
    assert [(part.name, part.type, part.size_bytes) for part in found.parts] == [
        ("unet", ComponentType.UNet, 8),
        ("vae", ComponentType.VAE, 4),
        ("text_encoder", ComponentType.TextEncoder, 4),
    ]


MODULE = "lora_unet_down_blocks_0_attentions_0_proj_in"
PEFT = "base_model.model.down_blocks.0.attn1.to_q"
ADAPTERS = {
    "kohya LoRA": [f"{MODULE}.lora_down.weight", f"{MODULE}.lora_up.weight", f"{MODULE}.alpha"],
    "LoCon": [f"{MODULE}.lora_mid.weight", f"{MODULE}.lora_down.weight", f"{MODULE}.lora_up.weight"],
    "LoHa": [f"{MODULE}.{name}" for name in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "alpha")],
    "LoKr whole": [f"{MODULE}.lokr_w1", f"{MODULE}.lokr_w2"],
    "LoKr factored": [f"{MODULE}.{name}" for name in ("lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2")],
    "LoKr without kohya's names": ["transformer.x.lokr_w1", "transformer.x.lokr_w2_a", "transformer.x.alpha"],
    "DoRA": [f"{MODULE}.dora_scale", f"{MODULE}.lora_down.weight", f"{MODULE}.lora_up.weight"],
    "PEFT": [f"{PEFT}.lora_A.weight", f"{PEFT}.lora_B.weight"],
    "PEFT by adapter": [f"{PEFT}.lora_A.default.weight", f"{PEFT}.lora_B.default.weight"],
    "PEFT DoRA": [f"{PEFT}.lora_magnitude_vector", f"{PEFT}.lora_A.weight"],
    "GLoRA": ["diffusion_model.x.a1.weight", "diffusion_model.x.a2.weight", "diffusion_model.x.b1.weight"],
    "OFT": ["x.oft_blocks", "x.alpha"],
    "OFT by diagonal": ["x.oft_diag"],
    "BOFT": ["x.boft_R", "x.boft_s"],
    "IA3": [f"{MODULE}.weight", f"{MODULE}.on_input"],
    "full difference": ["diffusion_model.out.0.diff", "diffusion_model.out.0.diff_b"],
    "XLabs": ["double_blocks.0.processor.proj_lora1.down.weight", "double_blocks.0.processor.qkv_lora2.up.weight"],
    "diffusers processors": ["unet.down_blocks.0.attn1.processor.to_k_lora.down.weight"],
    "diffusers": ["unet.down_blocks.0.attn1.to_k.lora.up.weight", "text_encoder.x.lora.down.weight"],
}


@pytest.mark.parametrize("kind", ADAPTERS)
def test_every_adapter_that_trainers_write_is_one(tmp_path: Path, kind: str) -> None:
    assert inspect(tensor_file(tmp_path / "m.safetensors", ADAPTERS[kind]), Roots([tmp_path])).type is ModelType.LoRA


@pytest.mark.parametrize("stray", ["x.lora_down.weight", "first.alpha", "lora_unet_x.dora_scale", "x.diff"])
def test_a_stray_key_makes_no_checkpoint_an_adapter(tmp_path: Path, stray: str) -> None:
    names = [*SD15_NAMES, stray]
    assert inspect(tensor_file(tmp_path / "m.safetensors", names), Roots([tmp_path])).type is ModelType.SD15


EMBEDDINGS = {
    "the web UI's": {"emb_params": [4, 768]},
    "SDXL's": {"clip_l": [2, 768], "clip_g": [2, 1280]},
    "SD 3's": {"clip_l": [2, 768], "clip_g": [2, 1280], "t5xxl": [2, 4096]},
    "diffusers' one vector": {"<cat-toy>": [768]},
    "diffusers' many vectors": {"*": [8, 1024]},
}


@pytest.mark.parametrize("kind", EMBEDDINGS)
def test_a_textual_inversion_is_named_for_what_it_is(tmp_path: Path, kind: str) -> None:
    found = inspect(tensor_file(tmp_path / "m.safetensors", EMBEDDINGS[kind]), Roots([tmp_path]))
    assert (found.type, found.family) == (ModelType.Diffusion, "TextualInversion")


@pytest.mark.parametrize(
    "shapes",
    [
        {"emb_params": [4, 769]},
        {"emb_params": [2, 2, 768]},
        {"emb_params": [2000, 768]},
        {"emb_params": [4, 768], "other": [4, 768]},
        {"text_model.embeddings.weight": [4, 768]},
    ],
)
def test_what_only_looks_like_one_is_none(tmp_path: Path, shapes: dict[str, list[int]]) -> None:
    found = inspect(tensor_file(tmp_path / "m.safetensors", shapes), Roots([tmp_path]))
    assert (found.type, found.family) == (ModelType.Unknown, "")


def test_what_training_left_in_a_file_counts_as_its_size_and_as_no_weight(tmp_path: Path) -> None:
    weights = {name: [1] for name in SD15_NAMES}
    left = {"model_ema.diffusion_modelinput_blocks00weight": [500], "optimizer.state.0": [300], "loss.logvar": [7]}
    plain = inspect(tensor_file(tmp_path / "plain.safetensors", weights), Roots([tmp_path]))
    trained = inspect(tensor_file(tmp_path / "trained.safetensors", weights | left), Roots([tmp_path]))
    assert (trained.tensor_bytes, trained.dtype_bytes) == (plain.tensor_bytes, plain.dtype_bytes)
    assert (plain.unused_bytes, trained.unused_bytes) == (0, 4 * 807)
    assert trained.weights_bytes == trained.size_bytes - 4 * 807 < trained.size_bytes
    assert plain.weights_bytes == plain.size_bytes
    alone = {"decoder.conv_in.weight": [2], "encoder.conv_in.weight": [2], "loss.discriminator.0": [9]}
    vae = inspect(tensor_file(tmp_path / "vae.safetensors", alone), Roots([tmp_path]))
    assert (vae.type, vae.tensor_bytes, vae.unused_bytes) == (ModelType.VAE, 16, 36)


def test_where_half_of_the_tensors_are_an_adapters_it_is_one_and_below_it_is_not(tmp_path: Path) -> None:
    checkpoint = SD15_NAMES[:4]
    adapters = [f"m{index}.lora_down.weight" for index in range(4)]
    for count, found in ((4, ModelType.LoRA), (3, ModelType.SD15)):
        path = tensor_file(tmp_path / "m.safetensors", [*checkpoint, *adapters[:count]])
        assert inspect(path, Roots([tmp_path])).type is found


@pytest.mark.parametrize(
    ("family", "names"),
    [
        ("Z-Image", ["cap_pad_token", "noise_refiner.0.attention.qkv.weight"]),
        ("Z-Image", [UNET + "cap_pad_token", UNET + "noise_refiner.0.attention.qkv.weight"]),
        ("Qwen-Image", ["transformer_blocks.0.img_mod.1.weight", "txt_norm.weight"]),
        ("Qwen-Image", [UNET + "transformer_blocks.0.img_mod.1.weight", UNET + "txt_norm.weight"]),
        ("Qwen-Image", ["transformer.transformer_blocks.0.img_mod.1.lora_A.weight"]),
        ("", ["noise_refiner.0.attention.qkv.weight", "context_refiner.0.attention.qkv.weight"]),
        ("", ["double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.weight"]),
        ("", [UNET + "double_blocks.0.img_attn.qkv.weight", UNET + "double_stream_modulation_img.lin.weight"]),
        ("Flux.1", ["transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"]),
        ("Stable Diffusion XL", ["lora_te2_x.lora_down.weight", "lora_unet_x.lora_up.weight"]),
        ("Stable Diffusion 3", ["lora_unet_joint_blocks_0.lora_down.weight"]),
        ("", ["lora_unet_input_blocks_1_1.lora_down.weight"]),
    ],
)
def test_a_family_without_a_word_of_its_own_and_that_of_an_adapter_are_named(
    tmp_path: Path, family: str, names: list[str]
) -> None:
    assert inspect(tensor_file(tmp_path / "m.safetensors", names), Roots([tmp_path])).family == family


@pytest.mark.parametrize(
    ("width", "family"),
    [(768, "Stable Diffusion 1"), (1024, "Stable Diffusion 2"), (2048, "Stable Diffusion XL"), (640, "")],
)
@pytest.mark.parametrize(
    "name",
    [
        "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
    ],
)
def test_the_width_of_an_adapters_keys_tells_the_unet_that_it_is_for(
    tmp_path: Path, name: str, width: int, family: str
) -> None:
    found = inspect(tensor_file(tmp_path / "m.safetensors", {name: [4, width], name + "_up": [4]}), Roots([tmp_path]))
    assert (found.type, found.family) == (ModelType.LoRA, family)
