"""What a model can be asked to draw: from text, from a picture, within a mask.

Decides by the channels that its denoiser takes and by the parts that it has: a model of other channels than its latents
have draws nothing by the pipelines of its family, whatever its index says.
"""

from __future__ import annotations

from pathlib import Path

from modelfiles.jsonfile import incompatible
from modelfiles.model import FIRST_TENSOR, Kind, ModelFile
from protocol.enums import Mode, ModelType

PACKED_PIXELS = {ModelType.Flux: 4}
"""Latent pixels that a denoiser sees as one."""

MOST_LATENT_CHANNELS = 128
PICTURES = frozenset({ModelType.SD15, ModelType.SD21, ModelType.SDXL, ModelType.SD3, ModelType.Flux})
UNET = ("unet", "conv_in.weight")
DENOISERS = {
    ModelType.SD3: ("transformer", "pos_embed.proj.weight"),
    ModelType.Flux: ("transformer", "x_embedder.weight"),
}
"""A family whose denoiser is no UNet → that part, and its first tensor, which sees the channels."""
BOTH = (Mode.TEXT, Mode.IMAGE)


def modes_of(file: ModelFile) -> tuple[Mode, ...]:
    """The ways to draw with a model; none for one that makes no pictures, or none that is known here."""
    if file.profile is not None:
        return BOTH
    if file.type not in PICTURES or (_expected(file) and file.in_channels != _expected(file)):
        return ()
    return (Mode.IMAGE,) if is_refiner(file) else BOTH


def is_refiner(file: ModelFile) -> bool:
    """Whether a folder is SDXL's second stage, which has the second text encoder alone and goes on from a picture."""
    names = {part.name for part in file.parts}
    return file.class_name.startswith("StableDiffusionXL") and "text_encoder_2" in names and "text_encoder" not in names


def check_channels(file: ModelFile) -> None:
    """Raise Fault MODEL_INCOMPATIBLE for a model whose denoiser takes what no pipeline here gives it."""
    expected, found = _expected(file), file.in_channels
    if file.type not in PICTURES or not expected or found == expected:
        return
    latent = file.latent_channels
    kinds = {2 * latent + 1: "an inpainting model", 2 * latent: "a model that edits pictures by instruction"}
    kind = kinds.get(found, "a model of another kind") if file.type not in PACKED_PIXELS else "a model of another kind"
    part, tensor = DENOISERS.get(file.type, UNET)
    if file.kind is Kind.SINGLE:
        tensor = FIRST_TENSOR
    text = f"{Path(file.path).name} is {kind}: its {part} takes {found} channels, and latents have {expected}"
    raise incompatible(text, part=part, tensor=tensor, found=found, expected=expected)


def _expected(file: ModelFile) -> int:
    """The channels of what a denoiser of the file's family is given; 0 where either is not known.

    A configuration that speaks of more than any VAE has is wrong about the VAE, which is told where that is built.
    """
    if not file.in_channels or file.latent_channels > MOST_LATENT_CHANNELS:
        return 0
    return file.latent_channels * PACKED_PIXELS.get(file.type, 1)
