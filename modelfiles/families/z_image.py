"""Z-Image: its turbo kind and the base model, with a small language model for a text encoder."""

from __future__ import annotations

from modelfiles.families.record import (
    KL_CLASSES,
    KL_VAES,
    QWEN_CHAT,
    QWEN_CLASSES,
    QWEN_TOKENIZERS,
    QWEN_VALUES,
    QWEN_VOCABULARIES,
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
from modelfiles.ranges import COUNT, FLAG, WIDTH, keys, listed, real, whole
from protocol.drawing import Mode
from protocol.enums import ComponentType, ModelType

BLOCKS = ("layers", "noise_refiner", "context_refiner")
LAYOUT = layout(
    {
        "x_embedder.": "all_x_embedder.2-1.",
        "final_layer.": "all_final_layer.2-1.",
        **{
            f"{block}.{{}}.attention.qkv.": tuple(f"{block}.{{}}.attention.to_{one}." for one in "qkv")
            for block in BLOCKS
        },
        **{f"{block}.{{}}.attention.out.": f"{block}.{{}}.attention.to_out.0." for block in BLOCKS},
        **{f"{block}.{{}}.attention.q_norm.": f"{block}.{{}}.attention.norm_q." for block in BLOCKS},
        **{f"{block}.{{}}.attention.k_norm.": f"{block}.{{}}.attention.norm_k." for block in BLOCKS},
        # All else has the class's own name.
        "": "",
    },
    swapped={},
)

FAMILY = Family(
    name="Z-Image",
    type=ModelType.Diffusion,
    signatures=(Signature(groups=(either("cap_pad_token"), either("noise_refiner.0."))),),
    modes={
        Mode.TEXT: "ZImagePipeline",
        Mode.IMAGE: "ZImageImg2ImgPipeline",
        Mode.INPAINT: "ZImageInpaintPipeline",
    },
    needed=frozenset({"vae", "scheduler", "transformer", "text_encoder", "tokenizer"}),
    classes=KL_CLASSES
    | QWEN_CLASSES
    | {
        ("diffusers", "ZImageTransformer2DModel"): ComponentType.Transformer,
        ("transformers", "Qwen3Model"): ComponentType.TextEncoder,
    },
    equivalents={"Qwen3Model": frozenset({"Qwen3ForCausalLM"})},
    vocabularies=QWEN_VOCABULARIES,
    values=QWEN_VALUES
    | {
        **keys(WIDTH, "dim", "cap_feat_dim"),
        **keys(COUNT, "n_layers", "n_refiner_layers", "n_heads", "n_kv_heads"),
        "siglip_feat_dim": WIDTH.or_null(),
        **keys(listed(whole(1, 64)), "all_patch_size", "all_f_patch_size"),
        "axes_dims": listed(whole(1, 1024)),
        "axes_lens": listed(whole(1, 1 << 16)),
        "qk_norm": FLAG,
        "t_scale": real(1e-6, 1e6),
    },
    chat_template=QWEN_CHAT,
    slots={
        "transformer": ("ZImageTransformer2DModel",),
        "vae": KL_VAES,
        "text_encoder": ("Qwen3Model",),
        "tokenizer": QWEN_TOKENIZERS,
    },
    widths={"cap_feat_dim": (("text_encoder", "hidden_size"),)},
    file_parts=(TRANSFORMER_PART, VAE_PART, encoder_part(1, "text_encoders.qwen3_4b.")),
    layout=LAYOUT,
    conversions=VAE_CONVERSION,
    denoiser=Denoiser(
        part="transformer",
        first="all_x_embedder.2-1.weight",
        originals=either("x_embedder.weight", "all_x_embedder.2-1.weight"),
        packed_tensor=4,
    ),
    scheduler=SchedulerKind.FLOW,
    native_side=1024,
    side_multiple=16,
    adapters=("diffusion_model.layers.0.attention", "transformer.layers.0.attention", "lora_unet_layers_0_attention"),
)
