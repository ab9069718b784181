"""A tiny Qwen-Image: two blocks, a vision-language model of two layers, and a VAE of films for one frame.

Decides the widths. Knows nothing of files.
"""

from __future__ import annotations

from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from demo.parts import build
from demo.tokenizer import BYTE_VOCAB_SIZE, byte_tokenizer

LATENT_CHANNELS = 16
PACKED = 4
WIDTH = 32


def transformer() -> QwenImageTransformer2DModel:
    return QwenImageTransformer2DModel(
        in_channels=LATENT_CHANNELS * PACKED,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(4, 6, 6),
    )


def autoencoder() -> AutoencoderKLQwenImage:
    return AutoencoderKLQwenImage(base_dim=8, z_dim=LATENT_CHANNELS, num_res_blocks=1)


def text_encoder() -> Qwen2_5_VLForConditionalGeneration:
    vision = {"depth": 1, "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_heads": 2, "out_hidden_size": WIDTH}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": BYTE_VOCAB_SIZE,
            "hidden_size": WIDTH,
            "intermediate_size": 2 * WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "use_cache": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config=vision | {"fullatt_block_indexes": [0], "patch_size": 14},
    )
    return build("qwen2.5-vl", lambda: Qwen2_5_VLForConditionalGeneration(config))


def pipeline() -> QwenImagePipeline:
    """The whole pipeline in Float32."""
    return QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0, use_dynamic_shifting=True, shift_terminal=0.02),
        vae=build("qwen-image-vae", autoencoder),
        text_encoder=text_encoder(),
        tokenizer=byte_tokenizer(),
        transformer=build("qwen-image-transformer", transformer),
    )
