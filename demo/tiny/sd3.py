"""A tiny Stable Diffusion 3: two joint blocks and all three text encoders.

Decides the widths. Knows nothing of files.
"""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline

from demo.original import transformer_to_original, vae_to_original, wrapped
from demo.parts import (
    CLIP_WIDTH,
    LATENT_PIXELS,
    OPEN_CLIP_WIDTH,
    T5_WIDTH,
    autoencoder,
    build,
    clip_l_projected,
    open_clip_g,
    t5_encoder,
)
from demo.single_file import ModelSpec, Single
from demo.tokenizer import clip_tokenizer, t5_tokenizer
from modelfiles.families import sd3

DTYPE = torch.float32
LATENT_CHANNELS = 16


def transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=LATENT_PIXELS,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=CLIP_WIDTH + OPEN_CLIP_WIDTH,
        pos_embed_max_size=LATENT_PIXELS,
    )


def pipeline() -> StableDiffusion3Pipeline:
    """The whole pipeline in Float32."""
    return StableDiffusion3Pipeline(
        transformer=build("sd3-transformer", transformer),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(
            "sd3-vae", latent_channels=LATENT_CHANNELS, scaling_factor=1.5305, shift_factor=0.0609, quantized=False
        ),
        text_encoder=clip_l_projected(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=open_clip_g(),
        tokenizer_2=clip_tokenizer("!"),
        text_encoder_3=t5_encoder(),
        tokenizer_3=t5_tokenizer(),
    )


def single(pipeline: StableDiffusion3Pipeline) -> Single:
    """All tensors under their original names, the text encoders with them as one published kind has them."""
    encoders = {"clip_l": pipeline.text_encoder, "clip_g": pipeline.text_encoder_2, "t5xxl": pipeline.text_encoder_3}
    tensors = {
        **transformer_to_original(pipeline.transformer.state_dict(), sd3.LAYOUT),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
    }
    for name, encoder in encoders.items():
        tensors |= wrapped(encoder.state_dict(), f"text_encoders.{name}.transformer.")
    spec = ModelSpec(
        title="Tiny SD 3 (single file)",
        architecture="stable-diffusion-v3-medium",
        prediction_type="",
        tags="tiny, demo, sd3",
        description="Random weights in the topology of Stable Diffusion 3, for demonstrations and tests.",
    )
    return Single(tensors, spec)
