"""The original (LDM / SGM) names of a checkpoint's tensors, as tables.

Decides how a diffusers tensor is called, shaped and joined in an original single file. Works on plain state
dictionaries: tensor name → tensor, of any type. Knows nothing of files or pipelines.
The inverse is diffusers' `loaders/single_file_utils.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch

from demo.tokenizer import CLIP_MAX_TOKENS
from modelfiles.families.record import Key
from worker.originals import pattern_of

Tensors = dict[str, torch.Tensor]
Rename = tuple[str, str]

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
SD15_CLIP_PREFIX = "cond_stage_model.transformer.text_model."
SDXL_CLIP_PREFIX = "conditioner.embedders.0.transformer.text_model."
SD2_OPEN_CLIP_PREFIX = "cond_stage_model.model."
SDXL_OPEN_CLIP_PREFIX = "conditioner.embedders.1.model."
SDXL_REFINER_OPEN_CLIP_PREFIX = "conditioner.embedders.0.model."

UNET_ENDS: list[Rename] = [
    ("time_embedding.linear_1.", "time_embed.0."),
    ("time_embedding.linear_2.", "time_embed.2."),
    ("add_embedding.linear_1.", "label_emb.0.0."),
    ("add_embedding.linear_2.", "label_emb.0.2."),
    ("conv_in.", "input_blocks.0.0."),
    ("conv_norm_out.", "out.0."),
    ("conv_out.", "out.2."),
    ("mid_block.resnets.0.", "middle_block.0."),
    ("mid_block.attentions.0.", "middle_block.1."),
    ("mid_block.resnets.1.", "middle_block.2."),
]
UNET_RESNET: list[Rename] = [
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("time_emb_proj.", "emb_layers.1."),
    ("conv_shortcut.", "skip_connection."),
]
MIDDLE_RESNETS = ("middle_block.0.", "middle_block.2.")
VAE_NAMES: list[Rename] = [
    ("conv_norm_out.", "norm_out."),
    ("conv_shortcut.", "nin_shortcut."),
    ("mid_block.resnets.0.", "mid.block_1."),
    ("mid_block.resnets.1.", "mid.block_2."),
    ("mid_block.attentions.0.group_norm.", "mid.attn_1.norm."),
    ("mid_block.attentions.0.to_q.", "mid.attn_1.q."),
    ("mid_block.attentions.0.to_k.", "mid.attn_1.k."),
    ("mid_block.attentions.0.to_v.", "mid.attn_1.v."),
    ("mid_block.attentions.0.to_out.0.", "mid.attn_1.proj_out."),
    ("down_blocks.", "down."),
    ("up_blocks.", "up."),
    (".resnets.", ".block."),
    ("downsamplers.0.", "downsample."),
    ("upsamplers.0.", "upsample."),
]
OPEN_CLIP_NAMES: list[Rename] = [
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.embeddings.token_embedding.", "token_embedding."),
    ("text_model.encoder.layers.", "transformer.resblocks."),
    ("text_model.final_layer_norm.", "ln_final."),
    ("text_projection.weight", "text_projection"),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    (".fc1.", ".c_fc."),
    (".fc2.", ".c_proj."),
    (".self_attn.", ".attn."),
]
FUSED_ATTENTION = re.compile(r"(?P<layer>.*\.attn\.)q_proj\.(?P<kind>weight|bias)")


def unet_to_original(tensors: Mapping[str, torch.Tensor], layers_per_block: int) -> Tensors:
    """A UNet's tensors under their LDM names. Shapes stay."""
    attended = {name.split(".attentions.")[0] for name in tensors if ".attentions." in name}
    return {UNET_PREFIX + unet_name(name, layers_per_block, attended): tensor for name, tensor in tensors.items()}


def unet_name(name: str, layers_per_block: int, attended: set[str]) -> str:
    """One UNet tensor's LDM name. `attended`: the blocks that have attention, such as `up_blocks.1`."""
    match = re.match(r"(?P<block>(?P<way>down|up)_blocks\.(?P<level>\d+))\.(?P<part>\w+)\.(?P<index>\d+)\.", name)
    if match is None:
        renamed = renamed_by(UNET_ENDS, name)
        return renamed_by(UNET_RESNET, renamed) if renamed.startswith(MIDDLE_RESNETS) else renamed
    level, index, rest = int(match["level"]), int(match["index"]), name[match.end() :]
    down = match["way"] == "down"
    # Input block 0 is the first convolution; a downsampler is a block of its own, an upsampler the end of the last.
    first = level * (layers_per_block + 1) + (1 if down else 0)
    side = "input_blocks" if down else "output_blocks"
    match match["part"]:
        case "resnets":
            return f"{side}.{first + index}.0.{renamed_by(UNET_RESNET, rest)}"
        case "attentions":
            return f"{side}.{first + index}.1.{rest}"
        case "downsamplers":
            return f"{side}.{first + layers_per_block}.0.{rest.replace('conv.', 'op.')}"
        case "upsamplers":
            place = 2 if match["block"] in attended else 1
            return f"{side}.{first + layers_per_block}.{place}.{rest}"
        case part:
            raise ValueError(f"tensor {name}: no original name for the part {part!r}")


def vae_to_original(tensors: Mapping[str, torch.Tensor], levels: int) -> Tensors:
    """An autoencoder's tensors under their LDM names.

    The decoder's levels count from the other end, and attention's linear layers [out, in] are 1-by-1 convolutions
    [out, in, 1, 1].
    """
    renamed: Tensors = {}
    for name, tensor in tensors.items():
        reversed_name = re.sub(r"up_blocks\.(\d+)", lambda level: f"up_blocks.{levels - 1 - int(level[1])}", name)
        original = renamed_by(VAE_NAMES, reversed_name)
        linear = ".attn_1." in original and tensor.ndim == 2
        renamed[VAE_PREFIX + original] = tensor[:, :, None, None] if linear else tensor
    return renamed


def clip_to_original(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """A CLIP text encoder's tensors: the original files keep transformers' names, with `text_model.` before them."""
    return {prefix + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}


def open_clip_to_original(tensors: Mapping[str, torch.Tensor], prefix: str = SDXL_OPEN_CLIP_PREFIX) -> Tensors:
    """An OpenCLIP text encoder's tensors: query, key and value joined along dimension 0, the projection transposed."""
    renamed = {renamed_by(OPEN_CLIP_NAMES, name): tensor for name, tensor in _text_model(tensors).items()}
    joined: Tensors = {}
    for name, tensor in renamed.items():
        fused = FUSED_ATTENTION.fullmatch(name)
        if fused is not None:
            parts = [renamed[f"{fused['layer']}{part}_proj.{fused['kind']}"] for part in "qkv"]
            joined[f"{fused['layer']}in_proj_{fused['kind']}"] = torch.cat(parts)
        elif name == "text_projection":
            joined[name] = tensor.T
        elif not name.endswith(("k_proj.weight", "k_proj.bias", "v_proj.weight", "v_proj.bias")):
            joined[name] = tensor
    return {prefix + name: tensor for name, tensor in joined.items()}


def transformer_to_original(tensors: Mapping[str, torch.Tensor], keys: Iterable[Key]) -> Tensors:
    """A transformer's tensors under the names of its family's original layout, rows joined and halves swapped."""
    left = dict(tensors)
    renamed: Tensors = {}
    last = str(max((int(number) for name in left for number in re.findall(r"^\w*blocks\.(\d+)\.", name)), default=-1))
    for key in keys:
        pattern = pattern_of(key.own[0])
        for match in [match for name in left if (match := pattern.fullmatch(name)) is not None]:
            block = match.groupdict().get("block") or ""
            if "{last}" in key.original and block != last:
                continue
            names = [own.replace("{last}", block).replace("{}", block) + match["rest"] for own in key.own]
            whole = torch.cat([left.pop(name) for name in names])
            original = key.original.replace("{last}", block).replace("{}", block) + match["rest"]
            renamed[UNET_PREFIX + original] = torch.cat([*reversed(whole.chunk(2))]) if key.swapped else whole
    if left:
        raise ValueError(f"tensor {min(left)}: no original name")
    return renamed


def position_ids() -> torch.Tensor:
    """[1, 77]: no pipeline reads it, but published files carry it and a loader has to pass over it."""
    return torch.arange(CLIP_MAX_TOKENS)[None]


def wrapped(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    """A text encoder's tensors as all-in-one files have them: transformers' names behind a beginning, each once."""
    clip = any(name.endswith("position_embedding.weight") for name in tensors)
    named = _text_model(tensors) if clip else tensors
    once = {named[name].data_ptr(): name for name in reversed(list(named))}
    return {prefix + name: named[name] for name in reversed(once.values())}


def _text_model(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    """CLIP's tensors with `text_model.` before them, which some versions of transformers leave out."""
    bare = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    return {name if name.startswith("text_projection") else f"text_model.{name}": bare[name] for name in bare}


def renamed_by(table: list[Rename], name: str) -> str:
    """`name` with every entry of the table applied, in the table's order."""
    for diffusers_part, original_part in table:
        name = name.replace(diffusers_part, original_part)
    return name
