"""Which family a safetensors file belongs to, told by its tensors: names first, widths where names do not decide.

Decides ModelType and the parts of single files. The tables follow the original layouts (LDM, SGM, SAI's SD 3, Black
Forest Labs' Flux) and the diffusers one. A file's own name is never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from modelfiles.headers import Tensor
from protocol.enums import ComponentType, ModelType
from protocol.records import Record

DIFFUSION = "model.diffusion_model."
CROSS_ATTENTION = DIFFUSION + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
SD2_CONTEXT_WIDTH = 1024
"""Width of the text embedding that a Stable Diffusion 2 UNet attends to; 768 in SD 1."""


class Signature(NamedTuple):
    """A family and its mark: for each group one of the beginnings must be there (an exact name begins itself)."""

    type: ModelType
    groups: tuple[tuple[str, ...], ...]


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

NEUTRAL = (".alpha", ".scale", ".network_alpha")
"""Endings that adapters have beside their tensors, and that say nothing by themselves."""


UNUSED = ("model_ema.", "ema_model.", "ema.", "optimizer.", "optimizer_states.", "optim.", "loss.", "discriminator.")
"""Beginnings of what training leaves in a file: averaged copies, optimiser states, critics."""

TEXTUAL_INVERSION = "TextualInversion"
EMBEDDINGS = frozenset({"emb_params", "clip_l", "clip_g", "t5xxl"})
EMBEDDING_WIDTHS = frozenset({768, 1024, 1280, 2048, 4096})
MOST_VECTORS = 1024
"""Of one word; SD 1 has room for 75."""

SIGNATURES = (
    Signature(
        ModelType.ControlNet,
        (
            (
                "control_model.",
                "controlnet_cond_embedding.",
                "controlnet_blocks.",
                "controlnet_down_blocks.",
                "input_hint_block.",
            ),
        ),
    ),
    Signature(ModelType.SD3, ((DIFFUSION + "joint_blocks.0.", "joint_blocks.0."),)),
    Signature(ModelType.Flux, ((DIFFUSION + "double_blocks.0.img_attn.", "double_blocks.0.img_attn."),)),
    Signature(ModelType.SDXL, ((DIFFUSION + "input_blocks.",), ("conditioner.embedders.",))),
    Signature(ModelType.SD21, ((DIFFUSION + "input_blocks.",), ("cond_stage_model.model.",))),
    Signature(ModelType.SD15, ((DIFFUSION + "input_blocks.",), ("cond_stage_model.transformer.",))),
    Signature(ModelType.UNet, ((DIFFUSION + "input_blocks.", "input_blocks."), (DIFFUSION + "out.", "out."))),
    Signature(ModelType.UNet, (("down_blocks.0.resnets.",), ("up_blocks.0.resnets.",), ("time_embedding.",))),
    Signature(ModelType.Flux, (("single_transformer_blocks.0.",), ("transformer_blocks.0.", "x_embedder."))),
    Signature(ModelType.SD3, (("transformer_blocks.0.norm1_context.",), ("pos_embed.proj.",))),
    Signature(ModelType.VAE, (("first_stage_model.decoder.", "decoder.conv_in."), ("first_stage_model.", "encoder."))),
    Signature(ModelType.VAE, (("vae.decoder.",), ("vae.encoder.",))),
    Signature(
        ModelType.TextEncoder,
        (
            (
                "text_model.embeddings.token_embedding.",
                "embeddings.token_embedding.",
                "encoder.block.0.layer.0.SelfAttention.",
                "transformer.resblocks.0.",
            ),
        ),
    ),
    Signature(ModelType.Diffusion, ((DIFFUSION,),)),
)
"""From the most to the least particular: the first that fits decides."""


class FilePart(Record, frozen=True, kw_only=True):
    """A part of a single file: all tensors whose names begin with one of the `prefixes`."""

    name: str
    type: ComponentType
    prefixes: tuple[str, ...]


def _part(name: str, kind: ComponentType, *prefixes: str) -> FilePart:
    return FilePart(name=name, type=kind, prefixes=prefixes)


_UNET = _part("unet", ComponentType.UNet, DIFFUSION)
_VAE = _part("vae", ComponentType.VAE, "first_stage_model.", "vae.")
_CONDITION = _part("text_encoder", ComponentType.TextEncoder, "cond_stage_model.")
_CLIP_L = _part("text_encoder", ComponentType.TextEncoder, "text_encoders.clip_l.")

SINGLE_FILE_PARTS: Mapping[ModelType, tuple[FilePart, ...]] = {
    ModelType.SD15: (_UNET, _VAE, _CONDITION),
    ModelType.SD21: (_UNET, _VAE, _CONDITION),
    ModelType.SDXL: (
        _UNET,
        _VAE,
        _part("text_encoder", ComponentType.TextEncoder, "conditioner.embedders.0."),
        _part("text_encoder_2", ComponentType.TextEncoder2, "conditioner.embedders.1."),
    ),
    ModelType.SD3: (
        _part("transformer", ComponentType.Transformer, DIFFUSION, "joint_blocks.", "transformer_blocks."),
        _VAE,
        _CLIP_L,
        _part("text_encoder_2", ComponentType.TextEncoder2, "text_encoders.clip_g."),
        _part("text_encoder_3", ComponentType.TextEncoder3, "text_encoders.t5xxl."),
    ),
    ModelType.Flux: (
        _part("transformer", ComponentType.Transformer, DIFFUSION, "double_blocks.", "single_blocks."),
        _VAE,
        _CLIP_L,
        _part("text_encoder_2", ComponentType.TextEncoder2, "text_encoders.t5xxl."),
    ),
}

WHOLE_FILE_PARTS: Mapping[ModelType, FilePart] = {
    ModelType.UNet: _part("unet", ComponentType.UNet, ""),
    ModelType.VAE: _part("vae", ComponentType.VAE, ""),
    ModelType.TextEncoder: _part("text_encoder", ComponentType.TextEncoder, ""),
    ModelType.ControlNet: _part("controlnet", ComponentType.ControlNet, ""),
    ModelType.LoRA: _part("lora", ComponentType.LoRA, ""),
}
WHOLE_TRANSFORMER = _part("transformer", ComponentType.Transformer, "")


def recognise(tensors: Iterable[Tensor]) -> ModelType:
    """The family of a file with these tensors; Unknown when no signature fits.

    An adapter is what has mostly an adapter's tensors: in a checkpoint, one stray key is no family.
    """
    listed = list(tensors)
    shapes = {tensor.name: tensor.shape for tensor in listed}
    adapters = sum(ADAPTER.search(name) is not None for name in shapes)
    neutral = sum(name.endswith(NEUTRAL) for name in shapes)
    if adapters and 2 * (adapters + neutral) >= len(shapes):
        return ModelType.LoRA
    if is_embedding(listed):
        return ModelType.Diffusion
    for signature in SIGNATURES:
        if all(any(name.startswith(group) for name in shapes) for group in signature.groups):
            return _refined(signature.type, shapes)
    return ModelType.LoRA if adapters else ModelType.Unknown


def used(found: ModelType, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors that a pipeline takes: those of a family's parts where they are known, else all that any model uses.

    An averaged copy of the weights, an optimiser's state and a discriminator are left out.
    """
    listed = [tensor for tensor in tensors if not tensor.name.startswith(UNUSED)]
    parts = file_parts(found, listed)
    owned = {tensor.name for tensors_of in parts.values() for tensor in tensors_of}
    return [tensor for tensor in listed if tensor.name in owned] if owned else listed


def family_name(found: ModelType, tensors: Iterable[Tensor]) -> str:
    """The name of a family that ModelType has no word for, "" for any other."""
    return TEXTUAL_INVERSION if found is ModelType.Diffusion and is_embedding(tensors) else ""


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


def _refined(found: ModelType, shapes: Mapping[str, tuple[int, ...]]) -> ModelType:
    """SD 1 and SD 2 share all names when the text encoder is written the transformers way: the width decides."""
    if found is ModelType.SD15 and shapes.get(CROSS_ATTENTION, ())[-1:] == (SD2_CONTEXT_WIDTH,):
        return ModelType.SD21
    return found


def file_parts(found: ModelType, tensors: Iterable[Tensor]) -> dict[FilePart, list[Tensor]]:
    """The tensors of a single file by part; parts without tensors are left out."""
    listed = list(tensors)
    table = SINGLE_FILE_PARTS.get(found, ())
    if found in WHOLE_FILE_PARTS:
        table = (WHOLE_FILE_PARTS[found],)
    elif found in (ModelType.SD3, ModelType.Flux) and not any(t.name.startswith(DIFFUSION) for t in listed):
        table = (WHOLE_TRANSFORMER,)
    parts = {part: [tensor for tensor in listed if tensor.name.startswith(part.prefixes)] for part in table}
    return {part: owned for part, owned in parts.items() if owned}
