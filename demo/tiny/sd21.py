"""A tiny Stable Diffusion 2 that predicts velocities: the topology of SD 1.5 behind a text encoder of OpenCLIP.

Decides the widths. Its UNet attends to embeddings of the real width, by which the family is told.
"""

from __future__ import annotations

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextModel

from demo.original import (
    SD2_OPEN_CLIP_PREFIX,
    open_clip_to_original,
    unet_to_original,
    vae_to_original,
)
from demo.parts import LATENT_PIXELS, NORM_GROUPS, autoencoder, build, clip_config
from demo.single_file import ModelSpec, Single
from demo.tokenizer import clip_tokenizer
from modelfiles.families.sd21 import CONTEXT_WIDTH

DTYPE = torch.float16
VOCAB_SIZE = 1_536
"""Of so wide an embedding, all of CLIP's tokens would take 100 MB."""


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_PIXELS,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=2,
        norm_num_groups=NORM_GROUPS,
        attention_head_dim=(2, 2, 4, 4),
        cross_attention_dim=CONTEXT_WIDTH,
        use_linear_projection=True,
    )


def text_encoder() -> CLIPTextModel:
    config = clip_config(CONTEXT_WIDTH, 1, "gelu", VOCAB_SIZE)
    config.num_attention_heads, config.intermediate_size = 16, 64
    return build("open-clip-h", lambda: CLIPTextModel(config))


def pipeline() -> StableDiffusionPipeline:
    """The whole pipeline in Float16, without a safety checker."""
    whole = StableDiffusionPipeline(
        vae=autoencoder("sd21-vae"),
        text_encoder=text_encoder(),
        tokenizer=clip_tokenizer("!", VOCAB_SIZE),
        unet=build("sd21-unet", unet),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type="v_prediction",
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return whole.to(DTYPE)


def single(pipeline: StableDiffusionPipeline) -> Single:
    """All tensors under their original names."""
    tensors = {
        **unet_to_original(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
        **open_clip_to_original(pipeline.text_encoder.state_dict(), SD2_OPEN_CLIP_PREFIX),
    }
    spec = ModelSpec(
        title="Tiny SD 2.1 (single file)",
        architecture="stable-diffusion-v2-768-v",
        prediction_type="v",
        tags="tiny, demo, sd21",
        description="Random weights in the topology of Stable Diffusion 2, for demonstrations and tests.",
    )
    return Single(tensors, spec)
