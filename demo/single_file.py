"""Single-file checkpoints in the original layout, each with a configuration folder of its stem beside it.

Decides what such a file holds: the tensors under their original names, the bookkeeping tensors that published files
carry, and a ModelSpec header. Knows nothing of how one is loaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file

from demo.original import (
    SD15_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    Tensors,
    clip_to_original,
    open_clip_to_original,
    unet_to_original,
    vae_to_original,
)
from demo.tokenizer import CLIP_MAX_TOKENS

WEIGHT_FILES = "*.safetensors"
MODELSPEC_VERSION = "1.0.0"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The `modelspec.*` keys of a safetensors header (Stability AI's Model Metadata Standard)."""

    title: str
    architecture: str
    tags: str
    description: str
    sai_model_spec: str = MODELSPEC_VERSION
    implementation: str = "sgm"
    author: str = "vrambroker demo"
    license: str = "Apache-2.0"
    date: str = "2025-01-01"
    resolution: str = "64x64"


SD15_SPEC = ModelSpec(
    title="Tiny SD 1.5 (single file)",
    architecture="stable-diffusion-v1",
    tags="tiny, demo, sd15",
    description="Random weights in the topology of Stable Diffusion 1.5, for demonstrations and tests.",
)
SDXL_SPEC = ModelSpec(
    title="Tiny SDXL (single file)",
    architecture="stable-diffusion-xl-v1-base",
    tags="tiny, demo, sdxl",
    description="Random weights in the topology of Stable Diffusion XL, for demonstrations and tests.",
)


def sd15_tensors(pipeline: StableDiffusionPipeline) -> Tensors:
    """All tensors of a Stable Diffusion 1.5 pipeline under their original names."""
    return {
        **unet_to_original(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
        **clip_to_original(pipeline.text_encoder.state_dict(), SD15_CLIP_PREFIX),
        SD15_CLIP_PREFIX + "embeddings.position_ids": position_ids(),
    }


def sdxl_tensors(pipeline: StableDiffusionXLPipeline) -> Tensors:
    """All tensors of a Stable Diffusion XL pipeline under their original names."""
    return {
        **unet_to_original(pipeline.unet.state_dict(), pipeline.unet.config.layers_per_block),
        **vae_to_original(pipeline.vae.state_dict(), len(pipeline.vae.config.block_out_channels)),
        **clip_to_original(pipeline.text_encoder.state_dict(), SDXL_CLIP_PREFIX),
        **open_clip_to_original(pipeline.text_encoder_2.state_dict()),
        SDXL_CLIP_PREFIX + "embeddings.position_ids": position_ids(),
        SDXL_OPEN_CLIP_PREFIX + "logit_scale": torch.tensor(4.6055, dtype=pipeline.dtype),
    }


def position_ids() -> torch.Tensor:
    """[1, 77]: no pipeline reads it, but published files carry it and a loader has to pass over it."""
    return torch.arange(CLIP_MAX_TOKENS)[None]


def write_single_file(path: Path, tensors: Tensors, spec: ModelSpec) -> None:
    """Write the tensors and the ModelSpec header to `path`."""
    header = {f"modelspec.{key}": str(value) for key, value in msgspec.structs.asdict(spec).items()}
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt", **header})
    sort_metadata(path)


def sort_metadata(path: Path) -> None:
    """Put the header's metadata in alphabetical order: the library writes it in a new order each time, and one model
    should have one checksum. The header keeps its length, so the tensors stay where they are."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(ordered.ljust(length))


def write_configuration(source: Path, target: Path) -> None:
    """Copy a pipeline folder without its weights: what a single file lacks to become a pipeline."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(WEIGHT_FILES))
