"""What a model can be asked to draw: from text, from a picture, within a mask.

Decides by the channels that its denoiser takes and by the parts that it has: a model of other channels than its latents
have draws nothing by the pipelines of its family, whatever its index says.
"""

from __future__ import annotations

from pathlib import Path

from modelfiles import families
from modelfiles.families import Family
from modelfiles.jsonfile import incompatible
from modelfiles.model import Kind, ModelFile
from protocol.drawing import Mode
from protocol.enums import ModelType

MOST_LATENT_CHANNELS = 128
PICTURELESS = frozenset({ModelType.LoRA, ModelType.ControlNet})
"""What belongs to a family and draws nothing by itself."""


def family_of(file: ModelFile) -> Family | None:
    """The family whose pipelines draw with a model; None for what draws nothing."""
    return None if file.type in PICTURELESS else families.named(file.family)


def modes_of(file: ModelFile) -> tuple[Mode, ...]:
    """The ways to draw with a model; none for one that makes no pictures, or none that is known here."""
    family = family_of(file)
    if file.profile is not None:
        return tuple(family.modes) if family is not None else (Mode.TEXT, Mode.IMAGE)
    if family is None:
        return ()
    expected = _expected(file, family)
    if is_inpainting(file):
        return (Mode.INPAINT,)
    if expected and file.in_channels != expected:
        return ()
    return tuple(family.modes)


def is_inpainting(file: ModelFile) -> bool:
    """Whether a denoiser takes, beside its own, the channels of a mask and of the masked picture."""
    family = family_of(file)
    if family is None or not family.has_inpainting_models or not _expected(file, family):
        return False
    return file.in_channels == 2 * file.latent_channels + 1


def check_channels(file: ModelFile) -> None:
    """Raise Fault MODEL_INCOMPATIBLE for a model whose denoiser takes what no pipeline here gives it."""
    family = family_of(file)
    expected = _expected(file, family) if family is not None else 0
    if family is None or not expected or file.in_channels == expected or is_inpainting(file):
        return
    found, latent = file.in_channels, file.latent_channels
    kinds = {2 * latent + 1: "an inpainting model", 2 * latent: "a model that edits pictures by instruction"}
    kind = kinds.get(found, "a model of another kind") if expected == latent else "a model of another kind"
    denoiser = family.denoiser
    tensor = denoiser.originals[0] if file.kind is Kind.SINGLE else denoiser.first
    text = f"{Path(file.path).name} is {kind}: its {denoiser.part} takes {found} channels, and latents have {expected}"
    raise incompatible(text, part=denoiser.part, tensor=tensor, found=found, expected=expected)


def check_parts(file: ModelFile) -> None:
    """Raise Fault MODEL_INCOMPATIBLE for a single file without a part that nothing of its family draws without.

    What is one part by itself is told by whoever loads it.
    """
    family = family_of(file)
    if family is None or file.kind is not Kind.SINGLE:
        return
    there = {part.name for part in file.parts}
    missing = [part.name for part in family.file_parts if part.name in family.needed - there]
    if missing:
        name = Path(file.path).name
        text = f"{name} ({file.type.value}) has no {' and no '.join(missing)}; {family.name} needs it"
        raise incompatible(text, missing=missing[0])


def _expected(file: ModelFile, family: Family) -> int:
    """The channels of what a denoiser of the file's family is given; 0 where either is not known.

    A configuration that speaks of more than any VAE has is wrong about the VAE, which is told where that is built.
    """
    if not file.in_channels or file.latent_channels > MOST_LATENT_CHANNELS:
        return 0
    packed = family.denoiser.packed_tensor if file.kind is Kind.SINGLE else family.denoiser.packed
    return file.latent_channels * packed
