"""Flux.1: dev, which is guided by an embedding, and schnell, which was distilled for few steps without guidance."""

from __future__ import annotations

from modelfiles.families.record import (
    CLIP_CLASSES,
    KL_CLASSES,
    T5_CLASSES,
    TRANSFORMER_PART,
    VAE_PART,
    Denoiser,
    Family,
    Guidance,
    SchedulerKind,
    Signature,
    either,
    encoder_part,
)
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType

CHROMA = either("distilled_guidance_layer.")
SECOND = either("double_stream_modulation_img.")
"""What Chroma and Flux.2 have, whose blocks have the same names."""

FAMILY = Family(
    name="Flux.1",
    type=ModelType.Flux,
    signatures=(
        Signature(groups=(either("double_blocks.0.img_attn."),), without=CHROMA + SECOND),
        Signature(
            groups=(("single_transformer_blocks.0.",), ("transformer_blocks.0.", "x_embedder.")),
            without=CHROMA + SECOND,
        ),
    ),
    modes={
        Mode.TEXT: "FluxPipeline",
        Mode.IMAGE: "FluxImg2ImgPipeline",
        Mode.INPAINT: "FluxInpaintPipeline",
    },
    needed=frozenset({"vae", "scheduler", "transformer", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"}),
    classes=CLIP_CLASSES
    | T5_CLASSES
    | KL_CLASSES
    | {
        ("diffusers", "FluxTransformer2DModel"): ComponentType.Transformer,
        ("diffusers", "FluxControlNetModel"): ComponentType.ControlNet,
    },
    file_parts=(
        TRANSFORMER_PART,
        VAE_PART,
        encoder_part(1, "text_encoders.clip_l."),
        encoder_part(2, "text_encoders.t5xxl."),
    ),
    denoiser=Denoiser(
        part="transformer", first="x_embedder.weight", originals=either("img_in.weight"), packed=4, packed_tensor=4
    ),
    scheduler=SchedulerKind.FLOW,
    native_side=1024,
    side_multiple=16,
    guidance=Guidance(negative=False, switch="guidance_embeds"),
    adapters=("lora_unet_double_blocks", "lora_unet_single_blocks", "transformer.single_transformer_blocks"),
)
