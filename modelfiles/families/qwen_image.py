"""Qwen-Image, with a vision-language model for a text encoder and a VAE made for films."""

from __future__ import annotations

from modelfiles.families.record import (
    QWEN_CLASSES,
    QWEN_TOKENIZERS,
    QWEN_VALUES,
    QWEN_VOCABULARIES,
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
from modelfiles.ranges import COUNT, FACTOR, FLAG, SOME, WIDTH, keys, listed, whole
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType

FAMILY = Family(
    name="Qwen-Image",
    type=ModelType.Diffusion,
    signatures=(Signature(groups=(either("transformer_blocks.0.img_mod.1."), either("txt_norm."))),),
    modes={
        Mode.TEXT: "QwenImagePipeline",
        Mode.IMAGE: "QwenImageImg2ImgPipeline",
        Mode.INPAINT: "QwenImageInpaintPipeline",
    },
    needed=frozenset({"vae", "scheduler", "transformer", "text_encoder", "tokenizer"}),
    classes=QWEN_CLASSES
    | {
        ("diffusers", "QwenImageTransformer2DModel"): ComponentType.Transformer,
        ("diffusers", "AutoencoderKLQwenImage"): ComponentType.VAE,
        ("transformers", "Qwen2_5_VLForConditionalGeneration"): ComponentType.TextEncoder,
    },
    vocabularies=QWEN_VOCABULARIES,
    values=QWEN_VALUES
    | {
        **keys(WIDTH, "base_dim", "z_dim", "input_channels", "embed_dim", "out_hidden_size"),
        **keys(COUNT, "num_res_blocks", "depth", "spatial_patch_size", "temporal_patch_size", "spatial_merge_size"),
        **keys(WIDTH, "window_size", "tokens_per_second"),
        **keys(listed(whole(1, 64)), "dim_mult"),
        **keys(listed(SOME, 0, 1024), "fullatt_block_indexes", "mrope_section"),
        "attn_scales": listed(FACTOR, 0),
        "temperal_downsample": listed(FLAG),
        **keys(FLAG, "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"),
    },
    slots={
        "transformer": ("QwenImageTransformer2DModel",),
        "vae": ("AutoencoderKLQwenImage",),
        "text_encoder": ("Qwen2_5_VLForConditionalGeneration",),
        "tokenizer": QWEN_TOKENIZERS,
    },
    widths={"joint_attention_dim": (("text_encoder", "hidden_size"),)},
    file_parts=(TRANSFORMER_PART, VAE_PART, encoder_part(1, "text_encoders.qwen25_7b.")),
    denoiser=Denoiser(
        part="transformer", first="img_in.weight", originals=either("img_in.weight"), packed=4, packed_tensor=4
    ),
    scheduler=SchedulerKind.FLOW,
    latent_key="z_dim",
    native_side=1328,
    greatest_default=1328,
    side_multiple=16,
    # Without a negative prompt its pipeline does not guide at all.
    guidance=Guidance(argument="true_cfg_scale", empty_negative=" "),
    adapters=(
        "transformer.transformer_blocks.0.img_mod",
        "diffusion_model.transformer_blocks.0.img_mod",
        "lora_unet_transformer_blocks_0_img_mod",
    ),
)
