"""Stable Diffusion 3 and 3.5."""

from __future__ import annotations

from modelfiles.families.record import (
    CLIP_CLASSES,
    KL_CLASSES,
    T5_CLASSES,
    TRANSFORMER_PART,
    VAE_PART,
    Denoiser,
    Family,
    SchedulerKind,
    Signature,
    either,
    encoder_part,
)
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType

FAMILY = Family(
    name="Stable Diffusion 3",
    type=ModelType.SD3,
    signatures=(
        Signature(groups=(either("joint_blocks.0."),)),
        Signature(groups=(("transformer_blocks.0.norm1_context.",), ("pos_embed.proj.",))),
    ),
    modes={
        Mode.TEXT: "StableDiffusion3Pipeline",
        Mode.IMAGE: "StableDiffusion3Img2ImgPipeline",
        Mode.INPAINT: "StableDiffusion3InpaintPipeline",
    },
    needed=frozenset({"vae", "scheduler", "transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"}),
    classes=CLIP_CLASSES
    | T5_CLASSES
    | KL_CLASSES
    | {
        ("diffusers", "SD3Transformer2DModel"): ComponentType.Transformer,
        ("diffusers", "SD3ControlNetModel"): ComponentType.ControlNet,
    },
    file_parts=(
        TRANSFORMER_PART,
        VAE_PART,
        encoder_part(1, "text_encoders.clip_l."),
        encoder_part(2, "text_encoders.clip_g."),
        encoder_part(3, "text_encoders.t5xxl."),
    ),
    denoiser=Denoiser(part="transformer", first="pos_embed.proj.weight", originals=either("x_embedder.proj.weight")),
    scheduler=SchedulerKind.FLOW,
    has_inpainting_models=True,
    native_side=1024,
    side_multiple=16,
    adapters=("lora_unet_joint_blocks", "transformer.transformer_blocks.0.attn.add_q_proj"),
)
