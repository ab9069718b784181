"""Stable Diffusion XL: the base model, and what was distilled or trained for masks from it."""

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
    name="Stable Diffusion XL",
    type=ModelType.SDXL,
    signatures=(Signature(groups=(UNET_BLOCKS, ("conditioner.embedders.",))),),
    modes={
        Mode.TEXT: "StableDiffusionXLPipeline",
        Mode.IMAGE: "StableDiffusionXLImg2ImgPipeline",
        Mode.INPAINT: "StableDiffusionXLInpaintPipeline",
    },
    relatives=("StableDiffusionXLControlNetPipeline",),
    needed=frozenset({"vae", "scheduler", "unet", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"}),
    classes=UNET_CLASSES | CLIP_CLASSES | KL_CLASSES,
    slots=UNET_SLOTS
    | {
        "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
        "tokenizer": CLIP_TOKENIZERS,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": CLIP_TOKENIZERS,
    },
    widths={"cross_attention_dim": (("text_encoder", "hidden_size"), ("text_encoder_2", "hidden_size"))},
    file_parts=(
        UNET_PART,
        VAE_PART,
        encoder_part(1, "conditioner.embedders.0."),
        encoder_part(2, "conditioner.embedders.1."),
    ),
    conversions=UNET_CONVERSIONS,
    configuration="sdxl",
    denoiser=UNET,
    scheduler=SchedulerKind.NOISE,
    has_inpainting_models=True,
    native_side=1024,
    controls={
        Mode.TEXT: "StableDiffusionXLControlNetPipeline",
        Mode.IMAGE: "StableDiffusionXLControlNetImg2ImgPipeline",
        Mode.INPAINT: "StableDiffusionXLControlNetInpaintPipeline",
    },
    context_width=2048,
    adapters=("lora_te2_",),
)
