"""Stable Diffusion 1, all of its versions."""

from __future__ import annotations

from modelfiles.families.record import (
    CLIP_CLASSES,
    CLIP_TOKENIZERS,
    KL_CLASSES,
    UNET,
    UNET_BLOCKS,
    UNET_CLASSES,
    UNET_CONVERSIONS,
    UNET_PART,
    UNET_SLOTS,
    VAE_PART,
    Family,
    SchedulerKind,
    Signature,
    encoder_part,
)
from protocol.drawing import Mode
from protocol.enums import ModelType

FAMILY = Family(
    name="Stable Diffusion 1",
    type=ModelType.SD15,
    signatures=(Signature(groups=(UNET_BLOCKS, ("cond_stage_model.transformer.",))),),
    modes={
        Mode.TEXT: "StableDiffusionPipeline",
        Mode.IMAGE: "StableDiffusionImg2ImgPipeline",
        Mode.INPAINT: "StableDiffusionInpaintPipeline",
    },
    relatives=("StableDiffusionControlNetPipeline",),
    needed=frozenset({"vae", "scheduler", "unet", "text_encoder", "tokenizer"}),
    classes=UNET_CLASSES | CLIP_CLASSES | KL_CLASSES,
    slots=UNET_SLOTS | {"text_encoder": ("CLIPTextModel",), "tokenizer": CLIP_TOKENIZERS},
    widths={"cross_attention_dim": (("text_encoder", "hidden_size"),)},
    file_parts=(UNET_PART, VAE_PART, encoder_part(1, "cond_stage_model.")),
    conversions=UNET_CONVERSIONS,
    configuration="sd15",
    denoiser=UNET,
    scheduler=SchedulerKind.NOISE,
    has_inpainting_models=True,
    native_side=512,
    greatest_default=768,
    controls={
        Mode.TEXT: "StableDiffusionControlNetPipeline",
        Mode.IMAGE: "StableDiffusionControlNetImg2ImgPipeline",
        Mode.INPAINT: "StableDiffusionControlNetInpaintPipeline",
    },
    context_width=768,
)
