"""A tiny Flux: two double and two single blocks, guidance embedded as in the dev variant.

Decides the widths. Knows nothing of files.
"""

from __future__ import annotations

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel

from demo.original import VAE_PREFIX, transformer_to_original, vae_to_original, wrapped
from demo.parts import CLIP_WIDTH, T5_WIDTH, autoencoder, build, clip_l, t5_encoder
from demo.single_file import ModelSpec, Single
from demo.tokenizer import clip_tokenizer, t5_tokenizer
from modelfiles.families import flux

DTYPE = torch.float32
LATENT_CHANNELS = 4
PACKED = 4  # Flux packs 2 by 2 latent pixels into one token


def transformer() -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=LATENT_CHANNELS * PACKED,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )


def scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)


def pipeline() -> FluxPipeline:
    """The whole pipeline in Float32."""
    return FluxPipeline(
        scheduler=scheduler(),
        vae=autoencoder(
            "flux-vae", latent_channels=LATENT_CHANNELS, scaling_factor=0.3611, shift_factor=0.1159, quantized=False
        ),
        text_encoder=clip_l(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
        transformer=build("flux-transformer", transformer),
    )


def single(pipeline: FluxPipeline) -> Single:
    """All tensors as all-in-one files have them."""
    tensors = {
        **transformer_to_original(pipeline.transformer.state_dict(), flux.LAYOUT),
        **{
            name.replace(VAE_PREFIX, "vae.", 1): tensor
            for name, tensor in vae_to_original(
                pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)
            ).items()
        },
        **wrapped(pipeline.text_encoder.state_dict(), "text_encoders.clip_l.transformer."),
        **wrapped(pipeline.text_encoder_2.state_dict(), "text_encoders.t5xxl.transformer."),
    }
    spec = ModelSpec(
        title="Tiny Flux (single file)",
        architecture="flux-1-dev",
        prediction_type="",
        tags="tiny, demo, flux",
        description="Random weights in the topology of Flux.1, for demonstrations and tests.",
    )
    return Single(tensors, spec)
