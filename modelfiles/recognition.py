"""What a safetensors file is, told by its tensors: a model of a family, a part of one, an adapter, new words.

Decides by names first, by widths where names do not decide; a file's own name is never looked at. What marks a family
is in its record.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from modelfiles import families
from modelfiles.families import Family
from modelfiles.families.record import DIFFUSION, FilePart, Signature
from modelfiles.headers import Tensor
from protocol.enums import ComponentType, ModelType

ADAPTER = re.compile(
    r"""
    ^(lora_|lycoris_)                            # kohya's and LyCORIS's names for whole modules, IA3 among them
    | [._]lora[12]?\.(down|up)\.                 # diffusers' processors, XLabs' proj_lora1 and qkv_lora1
    | \.lora_(down|up|mid|A|B|magnitude_vector|embedding_A|embedding_B)(\.|$)   # LoRA, LoCon, PEFT, DoRA
    | \.(hada_[wt][12](_[ab])?|lokr_([wt][12])(_[ab])?)$                        # LoHa; LoKr whole and factored
    | \.(oft_(blocks|diag|R|s)|boft_(R|s|blocks))(\.|$)                         # OFT, BOFT
    | \.([ab][12])\.weight$                      # GLoRA
    | \.(diff|diff_b|dora_scale|ia3_l|on_input|w_norm|b_norm)(\.|$)             # full differences, DoRA, IA3, norms
    """,
    re.VERBOSE,
)
"""What names of an adapter's tensors look like, as trainers write them."""

CONTEXT_KEYS = re.compile(r"attn2[._]to_k[._](lora_down|lora\.down|lora_A)")
"""The half of an adapter's matrix that takes the text embedding: its last size is their width."""

NEUTRAL = (".alpha", ".scale", ".network_alpha")
"""Endings that adapters have beside their tensors, and that say nothing by themselves."""


UNUSED = ("model_ema.", "ema_model.", "ema.", "optimizer.", "optimizer_states.", "optim.", "loss.", "discriminator.")
"""Beginnings of what training leaves in a file: averaged copies, optimiser states, critics."""

TEXTUAL_INVERSION = "TextualInversion"
EMBEDDINGS = frozenset({"emb_params", "clip_l", "clip_g", "t5xxl"})
EMBEDDING_WIDTHS = frozenset({768, 1024, 1280, 2048, 4096})
MOST_VECTORS = 1024
"""Of one word; SD 1 has room for 75."""

PARTS = (
    (
        ModelType.UNet,
        Signature(groups=((DIFFUSION + "input_blocks.", "input_blocks."), (DIFFUSION + "out.", "out."))),
    ),
    (
        ModelType.UNet,
        Signature(groups=(("down_blocks.0.resnets.",), ("up_blocks.0.resnets.",), ("time_embedding.",))),
    ),
    (
        ModelType.VAE,
        Signature(groups=(("first_stage_model.decoder.", "decoder.conv_in."), ("first_stage_model.", "encoder."))),
    ),
    (ModelType.VAE, Signature(groups=(("vae.decoder.",), ("vae.encoder.",)))),
    (
        ModelType.TextEncoder,
        Signature(
            groups=(
                (
                    "text_model.embeddings.token_embedding.",
                    "embeddings.token_embedding.",
                    "encoder.block.0.layer.0.SelfAttention.",
                    "transformer.resblocks.0.",
                    "model.embed_tokens.",
                ),
            )
        ),
    ),
    (ModelType.Diffusion, Signature(groups=((DIFFUSION,),))),
)
"""What a file is that holds no whole model of a known family; the first that fits decides."""

CONTROL_NET = Signature(
    groups=(
        (
            "control_model.",
            "controlnet_cond_embedding.",
            "controlnet_blocks.",
            "controlnet_down_blocks.",
            "input_hint_block.",
        ),
    )
)
"""Goes before all others: published ones lie beside the whole model that they were trained with."""


def _part(name: str, kind: ComponentType) -> FilePart:
    return FilePart(name=name, type=kind, prefixes=("",))


WHOLE_FILE_PARTS: Mapping[ModelType, FilePart] = {
    ModelType.UNet: _part("unet", ComponentType.UNet),
    ModelType.VAE: _part("vae", ComponentType.VAE),
    ModelType.TextEncoder: _part("text_encoder", ComponentType.TextEncoder),
    ModelType.ControlNet: _part("controlnet", ComponentType.ControlNet),
    ModelType.LoRA: _part("lora", ComponentType.LoRA),
}


class Recognised(NamedTuple):
    """What a file is: the wire's word, and the family's name, "" for none."""

    type: ModelType
    family: str


def recognise(tensors: Iterable[Tensor]) -> Recognised:
    """What a file with these tensors is; Unknown when no signature fits.

    An adapter is what has mostly an adapter's tensors: in a checkpoint, one stray key is no family.
    """
    listed = list(tensors)
    shapes = {tensor.name: tensor.shape for tensor in listed}
    adapters = sum(ADAPTER.search(name) is not None for name in shapes)
    neutral = sum(name.endswith(NEUTRAL) for name in shapes)
    if adapters and 2 * (adapters + neutral) >= len(shapes):
        return Recognised(ModelType.LoRA, _adapted(shapes))
    if is_embedding(listed):
        return Recognised(ModelType.Diffusion, TEXTUAL_INVERSION)
    if _fits(CONTROL_NET, shapes):
        return Recognised(ModelType.ControlNet, "")
    family = _family(shapes)
    if family is not None:
        return Recognised(family.type, family.name)
    found = next((kind for kind, signature in PARTS if _fits(signature, shapes)), None)
    return Recognised(found or (ModelType.LoRA if adapters else ModelType.Unknown), "")


def _family(shapes: Mapping[str, tuple[int, ...]]) -> Family | None:
    """The family with the most particular signature that fits."""
    fitting = [
        (signature.marks, family)
        for family in families.ALL
        for signature in family.signatures
        if _fits(signature, shapes)
    ]
    return max(fitting, key=lambda pair: pair[0], default=(0, None))[1]


def _fits(signature: Signature, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    if any(shapes.get(name, ())[-1:] != (width,) for name, width in signature.widths.items()):
        return False
    if not all(any(name.startswith(group) for name in shapes) for group in signature.groups):
        return False
    return not (signature.without and any(name.startswith(signature.without) for name in shapes))


def _adapted(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The family that an adapter was made for, where its names or the width of its keys show one alone."""
    widths = {shape[-1] for name, shape in shapes.items() if CONTEXT_KEYS.search(name) and shape}
    found = [
        family.name
        for family in families.ALL
        if family.context_width in widths or any(name.startswith(family.adapters) for name in shapes)
    ]
    return found[0] if len(found) == 1 else ""


def used(found: Recognised, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that a pipeline takes: those of a family's parts where they are known, else all that any model uses.

    An averaged copy of the weights, an optimiser's state and a discriminator are left out.
    """
    listed = [tensor for tensor in tensors if not tensor.name.startswith(UNUSED)]
    parts = file_parts(found, listed)
    owned = {tensor.name for tensors_of in parts.values() for tensor in tensors_of}
    return [tensor for tensor in listed if tensor.name in owned] if owned else listed


def is_embedding(tensors: Iterable[Tensor]) -> bool:
    """Whether a file holds vectors for new words alone, as textual inversion learns them.

    The web UI's `emb_params`; `clip_l`, `clip_g` and `t5xxl` of the families with several text encoders; of diffusers
    the word itself, whose one tensor is as wide as a text encoder's embeddings.
    """
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    if not shapes or not all(_is_vectors(shape) for shape in shapes.values()):
        return False
    return shapes.keys() <= EMBEDDINGS or (len(shapes) == 1 and all("." not in name for name in shapes))


def _is_vectors(shape: tuple[int, ...]) -> bool:
    rows = shape[0] if len(shape) == 2 else 1
    return len(shape) in (1, 2) and shape[-1] in EMBEDDING_WIDTHS and 0 < rows <= MOST_VECTORS


def file_parts(found: Recognised, tensors: Iterable[Tensor]) -> dict[FilePart, list[Tensor]]:
    """The tensors of a single file by part; parts without tensors are left out."""
    listed = list(tensors)
    if found.type in WHOLE_FILE_PARTS:
        return _owned((WHOLE_FILE_PARTS[found.type],), listed)
    family = families.named(found.family)
    if family is None:
        return {}
    return _owned(family.file_parts, listed) or _owned((_alone(family),), listed)


def _owned(parts: Iterable[FilePart], tensors: list[Tensor]) -> dict[FilePart, list[Tensor]]:
    owned = {part: [tensor for tensor in tensors if tensor.name.startswith(part.prefixes)] for part in parts}
    return {part: taken for part, taken in owned.items() if taken}


def _alone(family: Family) -> FilePart:
    """The denoiser of a file that holds nothing else, without what begins its names elsewhere."""
    kind = next(part.type for part in family.file_parts if part.name == family.denoiser.part)
    return FilePart(name=family.denoiser.part, type=kind, prefixes=("",))
