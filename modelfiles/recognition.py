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
from modelfiles.names import Names
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

ADAPTER_BEGINNINGS = ("lora_", "lycoris_")
ADAPTER_WORDS = (
    *("lora", "hada_", "lokr_", "oft_", ".a1.", ".a2.", ".b1.", ".b2."),
    *(".diff.", ".diff\n", ".diff_b", ".dora_scale", ".ia3_l", ".on_input", ".w_norm", ".b_norm"),
)
"""Of which each such name has one: a beginning, or a word near its end, the end of its line with it."""

Shapes = Mapping[str, tuple[int, ...]]

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
    names = Names(shapes)
    adapters = len(names.matching(ADAPTER, ADAPTER_WORDS, ADAPTER_BEGINNINGS))
    if adapters and 2 * (adapters + sum(name.endswith(NEUTRAL) for name in shapes)) >= len(shapes):
        return Recognised(ModelType.LoRA, _adapted(shapes, names))
    if is_embedding(listed):
        return Recognised(ModelType.Diffusion, TEXTUAL_INVERSION)
    if _fits(CONTROL_NET, shapes, names):
        return Recognised(ModelType.ControlNet, "")
    family = _family(shapes, names)
    if family is not None:
        return Recognised(family.type, family.name)
    found = next((kind for kind, signature in PARTS if _fits(signature, shapes, names)), None)
    return Recognised(found or (ModelType.LoRA if adapters else ModelType.Unknown), "")


def _family(shapes: Shapes, names: Names) -> Family | None:
    """The family with the most particular signature that fits."""
    fitting = [
        (signature.marks, family)
        for family in families.ALL
        for signature in family.signatures
        if _fits(signature, shapes, names)
    ]
    return max(fitting, key=lambda pair: pair[0], default=(0, None))[1]


def _fits(signature: Signature, shapes: Shapes, names: Names) -> bool:
    if any(shapes.get(name, ())[-1:] != (width,) for name, width in signature.widths.items()):
        return False
    return all(names.begins(group) for group in signature.groups) and not names.begins(signature.without)


def _adapted(shapes: Shapes, names: Names) -> str:
    """The family that an adapter was made for, where its names or the width of its keys show one alone."""
    widths = {shapes[name][-1] for name in names.matching(CONTEXT_KEYS, ("lora",)) if shapes[name]}
    found = [family.name for family in families.ALL if family.context_width in widths or names.begins(family.adapters)]
    return found[0] if len(found) == 1 else ""


def used(found: Recognised, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that a pipeline takes: those of a family's parts where they are known, else all that any model uses.

    An averaged copy of the weights, an optimiser's state and a discriminator are left out.
    """
    listed = [tensor for tensor in tensors if not tensor.name.startswith(UNUSED)]
    parts = file_parts(found, listed)
    return [tensor for owned in parts.values() for tensor in owned] if parts else listed


def is_embedding(tensors: Iterable[Tensor]) -> bool:
    """Whether a file holds vectors for new words alone, as textual inversion learns them.

    The web UI's `emb_params`; `clip_l`, `clip_g` and `t5xxl` of the families with several text encoders; of diffusers
    the word itself, whose one tensor is as wide as a text encoder's embeddings.
    """
    listed = list(tensors)
    if not listed or not all(_is_vectors(tensor.shape) for tensor in listed):
        return False
    names = {tensor.name for tensor in listed}
    return names <= EMBEDDINGS or (len(names) == 1 and all("." not in name for name in names))


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
    owned: list[tuple[FilePart, list[Tensor]]] = [(part, []) for part in parts]
    looked = [(part.prefixes, taken) for part, taken in owned]
    for tensor in tensors:
        name = tensor.name
        for prefixes, taken in looked:
            if name.startswith(prefixes):
                taken.append(tensor)
                break
    return {part: taken for part, taken in owned if taken}


def _alone(family: Family) -> FilePart:
    """The denoiser of a file that holds nothing else, without what begins its names elsewhere."""
    kind = next(part.type for part in family.file_parts if part.name == family.denoiser.part)
    return FilePart(name=family.denoiser.part, type=kind, prefixes=("",))
