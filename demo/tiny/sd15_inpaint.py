"""A tiny inpainting model of Stable Diffusion 1.5: its UNet takes a mask and the masked picture beside the latents."""

from __future__ import annotations

from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel

from demo.parts import autoencoder, build, clip_l
from demo.single_file import Single
from demo.tiny import sd15
from demo.tokenizer import clip_tokenizer

DTYPE = sd15.DTYPE
CHANNELS = 9


def unet() -> UNet2DConditionModel:
    # What begins with an underscore names the defaults, which would be taken instead.
    own = {key: value for key, value in sd15.unet().config.items() if not key.startswith("_")}
    return UNet2DConditionModel(**own | {"in_channels": CHANNELS})


def pipeline() -> StableDiffusionInpaintPipeline:
    """The whole pipeline in Float32, without a safety checker."""
    return StableDiffusionInpaintPipeline(
        vae=autoencoder("sd15-vae"),
        text_encoder=clip_l(),
        tokenizer=clip_tokenizer(),
        unet=build("sd15-inpaint-unet", unet),
        scheduler=sd15.scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def single(pipeline: StableDiffusionInpaintPipeline) -> Single:
    """All tensors under their original names."""
    made = sd15.single(pipeline)
    return Single(made.tensors, made.spec.titled("Tiny SD 1.5 Inpainting (single file)"))
