"""Stable Diffusion 2, whose text encoder is OpenCLIP's and whose UNet attends to embeddings of its width."""

from __future__ import annotations

import msgspec

from modelfiles.families.record import DIFFUSION, UNET_BLOCKS, Signature
from modelfiles.families.sd15 import FAMILY as FIRST
from protocol.enums import ModelType

CROSS_ATTENTION = DIFFUSION + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
CONTEXT_WIDTH = 1024
"""Width of the text embedding that its UNet attends to; 768 in the first."""

FAMILY = msgspec.structs.replace(
    FIRST,
    name="Stable Diffusion 2",
    type=ModelType.SD21,
    signatures=(
        Signature(groups=(UNET_BLOCKS, ("cond_stage_model.model.",))),
        Signature(groups=FIRST.signatures[0].groups, widths={CROSS_ATTENTION: CONTEXT_WIDTH}),
    ),
    config_marks={"cross_attention_dim": (CONTEXT_WIDTH,)},
    configuration="",
    context_width=CONTEXT_WIDTH,
    native_side=768,
)
