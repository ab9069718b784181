"""A tiny Stable Diffusion XL: the real topology at a fraction of the width, saved in Float16.

Decides the widths. Its weights are Float16, so that choosing a precision has something to decide.
"""

from __future__ import annotations

import torch
from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel

from demo.original import (
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    clip_to_original,
    open_clip_to_original,
    position_ids,
    unet_to_original,
    vae_to_original,
)
from demo.parts import (
    CLIP_WIDTH,
    LATENT_PIXELS,
    NORM_GROUPS,
    OPEN_CLIP_WIDTH,
    autoencoder,
    build,
    clip_l,
    open_clip_g,
)
from demo.single_file import ModelSpec, Single
from demo.tokenizer import clip_tokenizer

DTYPE = torch.float16
TIME_ID_WIDTH = 8
TIME_IDS = 6
SECOND_PAD_TOKEN = "!"


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_PIXELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        norm_num_groups=NORM_GROUPS,
        attention_head_dim=(2, 4, 4),
        transformer_layers_per_block=(1, 1, 2),
        cross_attention_dim=CLIP_WIDTH + OPEN_CLIP_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=OPEN_CLIP_WIDTH + TIME_IDS * TIME_ID_WIDTH,
    )


def scheduler() -> EulerDiscreteScheduler:
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        timestep_spacing="leading",
    )


def pipeline() -> StableDiffusionXLPipeline:
    """The whole pipeline in Float16, without a watermark."""
    whole = StableDiffusionXLPipeline(
        vae=autoencoder("sdxl-vae", scaling_factor=0.13025),
        text_encoder=clip_l(),
        text_encoder_2=open_clip_g(),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(SECOND_PAD_TOKEN),
        unet=build("sdxl-unet", unet),
        scheduler=scheduler(),
        add_watermarker=False,
    )
    return whole.to(DTYPE)


def single(pipeline: StableDiffusionXLPipeline) -> Single:
    """All tensors under their original names."""
    tensors = {
        **unet_to_original(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
        **clip_to_original(pipeline.text_encoder.state_dict(), SDXL_CLIP_PREFIX),
        **open_clip_to_original(pipeline.text_encoder_2.state_dict()),
        SDXL_CLIP_PREFIX + "embeddings.position_ids": position_ids(),
        SDXL_OPEN_CLIP_PREFIX + "logit_scale": torch.tensor(4.6055, dtype=pipeline.dtype),
    }
    spec = ModelSpec(
        title="Tiny SDXL (single file)",
        architecture="stable-diffusion-xl-v1-base",
        tags="tiny, demo, sdxl",
        description="Random weights in the topology of Stable Diffusion XL, for demonstrations and tests.",
    )
    return Single(tensors, spec)
