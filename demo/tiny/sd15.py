"""A tiny Stable Diffusion 1.5: the real topology, four UNet levels of two layers, at a fraction of the width.

Decides the widths. Knows nothing of files but the scheduler's published settings.
"""

from __future__ import annotations

import torch
from diffusers import PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel

from demo.original import SD15_CLIP_PREFIX, clip_to_original, position_ids, unet_to_original, vae_to_original
from demo.parts import CLIP_WIDTH, LATENT_PIXELS, NORM_GROUPS, autoencoder, build, clip_l
from demo.single_file import ModelSpec, Single
from demo.tokenizer import clip_tokenizer

DTYPE = torch.float32


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_PIXELS,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=2,
        norm_num_groups=NORM_GROUPS,
        attention_head_dim=2,
        cross_attention_dim=CLIP_WIDTH,
    )


def scheduler() -> PNDMScheduler:
    return PNDMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        set_alpha_to_one=False,
        skip_prk_steps=True,
        steps_offset=1,
    )


def pipeline() -> StableDiffusionPipeline:
    """The whole pipeline in Float32, without a safety checker."""
    return StableDiffusionPipeline(
        vae=autoencoder("sd15-vae"),
        text_encoder=clip_l(),
        tokenizer=clip_tokenizer(),
        unet=build("sd15-unet", unet),
        scheduler=scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def single(pipeline: StableDiffusionPipeline) -> Single:
    """All tensors under their original names."""
    tensors = {
        **unet_to_original(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
        **clip_to_original(pipeline.text_encoder.state_dict(), SD15_CLIP_PREFIX),
        SD15_CLIP_PREFIX + "embeddings.position_ids": position_ids(),
    }
    spec = ModelSpec(
        title="Tiny SD 1.5 (single file)",
        architecture="stable-diffusion-v1",
        tags="tiny, demo, sd15",
        description="Random weights in the topology of Stable Diffusion 1.5, for demonstrations and tests.",
    )
    return Single(tensors, spec)
