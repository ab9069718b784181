"""The tiny networks that the demonstration pipelines are put together from.

Decides their widths and their seeds: a part's weights depend on its name alone, so that every machine makes the same
and two models asking for one name share one content hash. Knows nothing of files.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from demo.tokenizer import CLIP_MAX_TOKENS, CLIP_VOCAB_SIZE, T5_VOCAB_SIZE

NORM_GROUPS = 8
CLIP_WIDTH = 16
OPEN_CLIP_WIDTH = 32
# Detectors tell SDXL single files by `resblocks.9`: ten layers at least.
OPEN_CLIP_LAYERS = 10
# SD 3 pads both CLIP embeddings, side by side, to this width.
T5_WIDTH = CLIP_WIDTH + OPEN_CLIP_WIDTH
PICTURE_PIXELS = 64
LATENT_PIXELS = PICTURE_PIXELS // 8

Module = TypeVar("Module", bound=torch.nn.Module)


@contextmanager
def seeded(name: str) -> Iterator[None]:
    """Random numbers that depend on `name` alone; the process's own generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(name.encode()))
        yield


def build(name: str, make: Callable[[], Module]) -> Module:
    """The module that `make` builds under the seed of `name`, ready for inference."""
    with seeded(name):
        return make().eval().requires_grad_(False)


def clip_config(width: int, layers: int, activation: str, vocab_size: int = CLIP_VOCAB_SIZE) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=vocab_size,
        max_position_embeddings=CLIP_MAX_TOKENS,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_attention_heads=width // 8,
        num_hidden_layers=layers,
        hidden_act=activation,
        # The embedding's standard deviation of 0.02 would drown in the noise of so few dimensions.
        initializer_factor=5.0,
        pad_token_id=1,
        bos_token_id=vocab_size - 2,
        eos_token_id=vocab_size - 1,
    )


def clip_l() -> CLIPTextModel:
    """CLIP-L's stand-in, width 16. One name, so one content: SD 1.5 and Flux share it as the real ones do."""
    return build("clip-l", lambda: CLIPTextModel(clip_config(CLIP_WIDTH, 2, "quick_gelu")))


def clip_l_projected() -> CLIPTextModelWithProjection:
    """CLIP-L's stand-in with a projection, as SD 3 has it."""
    return build("clip-l-projected", lambda: CLIPTextModelWithProjection(clip_config(CLIP_WIDTH, 2, "quick_gelu")))


def open_clip_g() -> CLIPTextModelWithProjection:
    """OpenCLIP bigG's stand-in, width 32: SDXL loaders tell the two encoders apart by width."""
    return build(
        "open-clip-g", lambda: CLIPTextModelWithProjection(clip_config(OPEN_CLIP_WIDTH, OPEN_CLIP_LAYERS, "gelu"))
    )


def t5_encoder() -> T5EncoderModel:
    """T5-XXL's stand-in: width 48, two layers."""
    config = T5Config(
        vocab_size=T5_VOCAB_SIZE,
        d_model=T5_WIDTH,
        d_kv=16,
        d_ff=64,
        num_heads=2,
        num_layers=2,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=False,
    )
    return build("t5", lambda: T5EncoderModel(config))


def autoencoder(
    name: str,
    *,
    latent_channels: int = 4,
    scaling_factor: float = 0.18215,
    shift_factor: float | None = None,
    quantized: bool = True,
) -> AutoencoderKL:
    """A picture autoencoder of factor 8. `quantized`: with the 1-by-1 convolutions that Flux and SD 3 leave out."""

    def make() -> AutoencoderKL:
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(16, 16, 32, 32),
            layers_per_block=2,
            latent_channels=latent_channels,
            norm_num_groups=NORM_GROUPS,
            sample_size=PICTURE_PIXELS,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            use_quant_conv=quantized,
            use_post_quant_conv=quantized,
        )

    return vivid(build(name, make))


def vivid(vae: AutoencoderKL) -> AutoencoderKL:
    """Spread the decoder's output over the whole range: random weights alone paint a near-uniform grey, in which
    unequal pictures could round to equal bytes."""
    vae.decoder.conv_out.weight.mul_(2.0)
    return vae
