"""Stable Diffusion XL's refiner, its second stage: it has the second text encoder alone, and goes on from a picture."""

from __future__ import annotations

import msgspec

from modelfiles.families.record import UNET_BLOCKS, UNET_PART, VAE_PART, Signature, encoder_part
from modelfiles.families.sdxl import FAMILY as BASE
from protocol.drawing import Mode

FAMILY = msgspec.structs.replace(
    BASE,
    name="Stable Diffusion XL Refiner",
    signatures=(
        Signature(groups=(UNET_BLOCKS, ("conditioner.embedders.0.model.",)), without=("conditioner.embedders.1.",)),
    ),
    modes={mode: name for mode, name in BASE.modes.items() if mode is not Mode.TEXT},
    controls={},
    relatives=(),
    lacks=frozenset({"text_encoder"}),
    needed=BASE.needed - {"text_encoder", "tokenizer"},
    widths={"cross_attention_dim": (("text_encoder_2", "hidden_size"),)},
    file_parts=(UNET_PART, VAE_PART, encoder_part(2, "conditioner.embedders.0.")),
    configuration="sdxl_refiner",
    context_width=1280,
    adapters=(),
)
