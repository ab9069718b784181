from __future__ import annotations

from pathlib import Path

import pytest
from model_bytes import SD15_NAMES, tensor_file

from modelfiles.families import CROSS_ATTENTION
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
