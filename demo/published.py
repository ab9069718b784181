"""The tensors of published single files in the original layout, by the project's own configurations.

Decides what `modelfiles/configurations/*/tensors.tsv` hold: `python -m demo.published` writes them. Nothing of a
model's size is made: the modules are built without memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from demo.original import (
    SD15_CLIP_PREFIX,
    SDXL_CLIP_PREFIX,
    SDXL_OPEN_CLIP_PREFIX,
    SDXL_REFINER_OPEN_CLIP_PREFIX,
    clip_to_original,
    open_clip_to_original,
    unet_to_original,
    vae_to_original,
)
from modelfiles.complete import ASKED, Asked, written
from modelfiles.families import CONFIGURATIONS

ENCODERS = {
    "sd15": {"text_encoder": SD15_CLIP_PREFIX},
    "sdxl": {"text_encoder": SDXL_CLIP_PREFIX, "text_encoder_2": SDXL_OPEN_CLIP_PREFIX},
    "sdxl_refiner": {"text_encoder_2": SDXL_REFINER_OPEN_CLIP_PREFIX},
}
"""Of each configuration: its text encoders, and what begins their names in a single file."""


def published(configuration: str) -> dict[str, Asked]:
    """Every part's tensors: whole names in the original layout → shapes."""
    parts = {"unet": unet(configuration), "vae": vae(configuration)}
    return parts | {part: encoder(configuration, part, prefix) for part, prefix in ENCODERS[configuration].items()}


def unet(configuration: str) -> Asked:
    config = json.loads((CONFIGURATIONS / configuration / "unet" / "config.json").read_text())
    made = on_meta(lambda: UNet2DConditionModel.from_config(config))
    return shapes_of(unet_to_original(made, config["layers_per_block"]))


def vae(configuration: str) -> Asked:
    config = json.loads((CONFIGURATIONS / configuration / "vae" / "config.json").read_text())
    made = on_meta(lambda: AutoencoderKL.from_config(config))
    return shapes_of(vae_to_original(made, len(config["block_out_channels"])))


def encoder(configuration: str, part: str, prefix: str) -> Asked:
    """A text encoder's tensors; the second one's are OpenCLIP's."""
    path = CONFIGURATIONS / configuration / part / "config.json"
    cls = CLIPTextModelWithProjection if part == "text_encoder_2" else CLIPTextModel
    made = on_meta(lambda: cls(CLIPTextConfig.from_json_file(path)))
    original = open_clip_to_original if part == "text_encoder_2" else clip_to_original
    return shapes_of(original(made, prefix))


def on_meta(make: Callable[[], torch.nn.Module]) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return dict(make().state_dict())


def shapes_of(tensors: dict[str, torch.Tensor]) -> Asked:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def main() -> None:
    for configuration in ENCODERS:
        path = CONFIGURATIONS / configuration / ASKED
        path.write_text(written(published(configuration)))


if __name__ == "__main__":
    main()
