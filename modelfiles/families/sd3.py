"""Stable Diffusion 3 and 3.5."""

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
    SchedulerKind,
    Signature,
    either,
    encoder_part,
    layout,
)
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType

LAYOUT = layout(
    {
        "pos_embed": "pos_embed.pos_embed",
        "x_embedder.proj.": "pos_embed.proj.",
        "t_embedder.mlp.0.": "time_text_embed.timestep_embedder.linear_1.",
        "t_embedder.mlp.2.": "time_text_embed.timestep_embedder.linear_2.",
        "y_embedder.mlp.0.": "time_text_embed.text_embedder.linear_1.",
        "y_embedder.mlp.2.": "time_text_embed.text_embedder.linear_2.",
        "context_embedder.": "context_embedder.",
        "joint_blocks.{}.x_block.adaLN_modulation.1.": "transformer_blocks.{}.norm1.linear.",
        "joint_blocks.{}.context_block.adaLN_modulation.1.": "transformer_blocks.{}.norm1_context.linear.",
        "joint_blocks.{}.x_block.attn.qkv.": (
            "transformer_blocks.{}.attn.to_q.",
            "transformer_blocks.{}.attn.to_k.",
            "transformer_blocks.{}.attn.to_v.",
        ),
        "joint_blocks.{}.context_block.attn.qkv.": (
            "transformer_blocks.{}.attn.add_q_proj.",
            "transformer_blocks.{}.attn.add_k_proj.",
            "transformer_blocks.{}.attn.add_v_proj.",
        ),
        "joint_blocks.{}.x_block.attn2.qkv.": (
            "transformer_blocks.{}.attn2.to_q.",
            "transformer_blocks.{}.attn2.to_k.",
            "transformer_blocks.{}.attn2.to_v.",
        ),
        "joint_blocks.{}.x_block.attn.ln_q.": "transformer_blocks.{}.attn.norm_q.",
        "joint_blocks.{}.x_block.attn.ln_k.": "transformer_blocks.{}.attn.norm_k.",
        "joint_blocks.{}.context_block.attn.ln_q.": "transformer_blocks.{}.attn.norm_added_q.",
        "joint_blocks.{}.context_block.attn.ln_k.": "transformer_blocks.{}.attn.norm_added_k.",
        "joint_blocks.{}.x_block.attn2.ln_q.": "transformer_blocks.{}.attn2.norm_q.",
        "joint_blocks.{}.x_block.attn2.ln_k.": "transformer_blocks.{}.attn2.norm_k.",
        "joint_blocks.{}.x_block.attn.proj.": "transformer_blocks.{}.attn.to_out.0.",
        "joint_blocks.{}.context_block.attn.proj.": "transformer_blocks.{}.attn.to_add_out.",
        "joint_blocks.{}.x_block.attn2.proj.": "transformer_blocks.{}.attn2.to_out.0.",
        "joint_blocks.{}.x_block.mlp.fc1.": "transformer_blocks.{}.ff.net.0.proj.",
        "joint_blocks.{}.x_block.mlp.fc2.": "transformer_blocks.{}.ff.net.2.",
        "joint_blocks.{}.context_block.mlp.fc1.": "transformer_blocks.{}.ff_context.net.0.proj.",
        "joint_blocks.{}.context_block.mlp.fc2.": "transformer_blocks.{}.ff_context.net.2.",
        "final_layer.linear.": "proj_out.",
    },
    swapped={
        # The last block's context has a scale and a shift alone, as the end has.
        "joint_blocks.{last}.context_block.adaLN_modulation.1.": "transformer_blocks.{last}.norm1_context.linear.",
        "final_layer.adaLN_modulation.1.": "norm_out.linear.",
    },
)

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
    spare=frozenset({"text_encoder_3"}),
    classes=CLIP_CLASSES
    | T5_CLASSES
    | KL_CLASSES
    | {
        ("diffusers", "SD3Transformer2DModel"): ComponentType.Transformer,
        ("diffusers", "SD3ControlNetModel"): ComponentType.ControlNet,
    },
    slots={
        "transformer": ("SD3Transformer2DModel",),
        "vae": KL_VAES,
        "text_encoder": ("CLIPTextModelWithProjection",),
        "tokenizer": CLIP_TOKENIZERS,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": CLIP_TOKENIZERS,
        "text_encoder_3": ("T5EncoderModel",),
        "tokenizer_3": T5_TOKENIZERS,
    },
    widths={
        "pooled_projection_dim": (("text_encoder", "projection_dim"), ("text_encoder_2", "projection_dim")),
        "joint_attention_dim": (("text_encoder_3", "d_model"),),
    },
    file_parts=(
        TRANSFORMER_PART,
        VAE_PART,
        encoder_part(1, "text_encoders.clip_l."),
        encoder_part(2, "text_encoders.clip_g."),
        encoder_part(3, "text_encoders.t5xxl."),
    ),
    layout=LAYOUT,
    conversions=VAE_CONVERSION,
    denoiser=Denoiser(part="transformer", first="pos_embed.proj.weight", originals=either("x_embedder.proj.weight")),
    scheduler=SchedulerKind.FLOW,
    has_inpainting_models=True,
    native_side=1024,
    side_multiple=16,
    adapters=("lora_unet_joint_blocks", "transformer.transformer_blocks.0.attn.add_q_proj"),
)
