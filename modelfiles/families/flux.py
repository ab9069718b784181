"""Flux.1: dev, which is guided by an embedding, and schnell, which was distilled for few steps without guidance."""

from __future__ import annotations

from modelfiles.families.record import (
    CLIP_CLASSES,
    CLIP_TOKENIZERS,
    KL_CLASSES,
    KL_VAES,
    T5_CLASSES,
    T5_TOKENIZERS,
    TRANSFORMER_PART,
    VAE_CONVERSION,
    VAE_PART,
    Denoiser,
    Family,
    Guidance,
    SchedulerKind,
    Signature,
    either,
    encoder_part,
    layout,
)
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType

CHROMA = either("distilled_guidance_layer.")
SECOND = either("double_stream_modulation_img.")
"""What Chroma and Flux.2 have, whose blocks have the same names."""

LAYOUT = layout(
    {
        "time_in.in_layer.": "time_text_embed.timestep_embedder.linear_1.",
        "time_in.out_layer.": "time_text_embed.timestep_embedder.linear_2.",
        "vector_in.in_layer.": "time_text_embed.text_embedder.linear_1.",
        "vector_in.out_layer.": "time_text_embed.text_embedder.linear_2.",
        "guidance_in.in_layer.": "time_text_embed.guidance_embedder.linear_1.",
        "guidance_in.out_layer.": "time_text_embed.guidance_embedder.linear_2.",
        "txt_in.": "context_embedder.",
        "img_in.": "x_embedder.",
        "double_blocks.{}.img_mod.lin.": "transformer_blocks.{}.norm1.linear.",
        "double_blocks.{}.txt_mod.lin.": "transformer_blocks.{}.norm1_context.linear.",
        "double_blocks.{}.img_attn.qkv.": (
            "transformer_blocks.{}.attn.to_q.",
            "transformer_blocks.{}.attn.to_k.",
            "transformer_blocks.{}.attn.to_v.",
        ),
        "double_blocks.{}.txt_attn.qkv.": (
            "transformer_blocks.{}.attn.add_q_proj.",
            "transformer_blocks.{}.attn.add_k_proj.",
            "transformer_blocks.{}.attn.add_v_proj.",
        ),
        "double_blocks.{}.img_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_q.weight",
        "double_blocks.{}.img_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_k.weight",
        "double_blocks.{}.txt_attn.norm.query_norm.scale": "transformer_blocks.{}.attn.norm_added_q.weight",
        "double_blocks.{}.txt_attn.norm.key_norm.scale": "transformer_blocks.{}.attn.norm_added_k.weight",
        "double_blocks.{}.img_attn.proj.": "transformer_blocks.{}.attn.to_out.0.",
        "double_blocks.{}.txt_attn.proj.": "transformer_blocks.{}.attn.to_add_out.",
        "double_blocks.{}.img_mlp.0.": "transformer_blocks.{}.ff.net.0.proj.",
        "double_blocks.{}.img_mlp.2.": "transformer_blocks.{}.ff.net.2.",
        "double_blocks.{}.txt_mlp.0.": "transformer_blocks.{}.ff_context.net.0.proj.",
        "double_blocks.{}.txt_mlp.2.": "transformer_blocks.{}.ff_context.net.2.",
        "single_blocks.{}.modulation.lin.": "single_transformer_blocks.{}.norm.linear.",
        "single_blocks.{}.linear1.": (
            "single_transformer_blocks.{}.attn.to_q.",
            "single_transformer_blocks.{}.attn.to_k.",
            "single_transformer_blocks.{}.attn.to_v.",
            "single_transformer_blocks.{}.proj_mlp.",
        ),
        "single_blocks.{}.norm.query_norm.scale": "single_transformer_blocks.{}.attn.norm_q.weight",
        "single_blocks.{}.norm.key_norm.scale": "single_transformer_blocks.{}.attn.norm_k.weight",
        "single_blocks.{}.linear2.": "single_transformer_blocks.{}.proj_out.",
        "final_layer.linear.": "proj_out.",
    },
    swapped={"final_layer.adaLN_modulation.1.": "norm_out.linear."},
)

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
    slots={
        "transformer": ("FluxTransformer2DModel",),
        "vae": KL_VAES,
        "text_encoder": ("CLIPTextModel",),
        "tokenizer": CLIP_TOKENIZERS,
        "text_encoder_2": ("T5EncoderModel",),
        "tokenizer_2": T5_TOKENIZERS,
    },
    widths={
        "pooled_projection_dim": (("text_encoder", "hidden_size"),),
        "joint_attention_dim": (("text_encoder_2", "d_model"),),
    },
    file_parts=(
        TRANSFORMER_PART,
        VAE_PART,
        encoder_part(1, "text_encoders.clip_l."),
        encoder_part(2, "text_encoders.t5xxl."),
    ),
    layout=LAYOUT,
    conversions=VAE_CONVERSION,
    denoiser=Denoiser(
        part="transformer", first="x_embedder.weight", originals=either("img_in.weight"), packed=4, packed_tensor=4
    ),
    scheduler=SchedulerKind.FLOW,
    native_side=1024,
    side_multiple=16,
    guidance=Guidance(negative=False, switch="guidance_embeds"),
    adapters=("lora_unet_double_blocks", "lora_unet_single_blocks", "transformer.single_transformer_blocks"),
)
