"""A tiny refiner of Stable Diffusion XL: the second text encoder alone, and a UNet that is told an aesthetic score.

Decides the widths. Its weights are Float16, as the base model's.
"""

from __future__ import annotations

from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel

from demo.original import SDXL_REFINER_OPEN_CLIP_PREFIX, open_clip_to_original, unet_to_original, vae_to_original
from demo.parts import LATENT_PIXELS, NORM_GROUPS, OPEN_CLIP_WIDTH, autoencoder, build, open_clip_g
from demo.single_file import ModelSpec, Single
from demo.tiny.sdxl import DTYPE, SECOND_PAD_TOKEN, TIME_ID_WIDTH, scheduler
from demo.tokenizer import clip_tokenizer

TIME_IDS = 5


def unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=LATENT_PIXELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(16, 32, 32, 32),
        layers_per_block=2,
        norm_num_groups=NORM_GROUPS,
        attention_head_dim=(2, 4, 4, 4),
        transformer_layers_per_block=1,
        cross_attention_dim=OPEN_CLIP_WIDTH,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_ID_WIDTH,
        projection_class_embeddings_input_dim=OPEN_CLIP_WIDTH + TIME_IDS * TIME_ID_WIDTH,
    )


def pipeline() -> StableDiffusionXLImg2ImgPipeline:
    """The whole pipeline in Float16, without a watermark."""
    whole = StableDiffusionXLImg2ImgPipeline(
        vae=autoencoder("sdxl-vae", scaling_factor=0.13025),
        text_encoder=None,
        text_encoder_2=open_clip_g(),
        tokenizer=None,
        tokenizer_2=clip_tokenizer(SECOND_PAD_TOKEN),
        unet=build("sdxl-refiner-unet", unet),
        scheduler=scheduler(),
        requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False,
        add_watermarker=False,
    )
    return whole.to(DTYPE)


def single(pipeline: StableDiffusionXLImg2ImgPipeline) -> Single:
    """All tensors under their original names."""
    tensors = {
        **unet_to_original(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
        **open_clip_to_original(pipeline.text_encoder_2.state_dict(), SDXL_REFINER_OPEN_CLIP_PREFIX),
    }
    spec = ModelSpec(
        title="Tiny SDXL Refiner (single file)",
        architecture="stable-diffusion-xl-v1-refiner",
        tags="tiny, demo, sdxl, refiner",
        description="Random weights in the topology of Stable Diffusion XL's refiner, for demonstrations and tests.",
    )
    return Single(tensors, spec)
