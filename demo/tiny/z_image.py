"""A tiny Z-Image: two layers behind one refiner for each input, and a language model of three layers.

Decides the widths. Knows nothing of files.
"""

from __future__ import annotations

from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen3Config, Qwen3Model

from demo.parts import autoencoder, build
from demo.tokenizer import BYTE_VOCAB_SIZE, byte_tokenizer

LATENT_CHANNELS = 16
WIDTH = 32


def transformer() -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        dim=WIDTH,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )


def text_encoder() -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=BYTE_VOCAB_SIZE,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=1024,
        use_cache=False,
    )
    return build("qwen3", lambda: Qwen3Model(config))


def pipeline() -> ZImagePipeline:
    """The whole pipeline in Float32."""
    return ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=autoencoder(
            "z-image-vae", latent_channels=LATENT_CHANNELS, scaling_factor=0.3611, shift_factor=0.1159, quantized=False
        ),
        text_encoder=text_encoder(),
        tokenizer=byte_tokenizer(),
        transformer=build("z-image-transformer", transformer),
    )
