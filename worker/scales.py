"""Scaled fp8 weights of a single file, made plain: each times the scale that stands beside it.

Decides which tensors are scales. Formats whose scales are of blocks, or of their own kind, are refused before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable

import torch

from modelfiles.headers import Tensor
from modelfiles.jsonfile import incompatible

WEIGHT = ".weight"
OF_WEIGHTS = (".scale_weight", ".weight_scale")
BESIDE = re.compile(r"(^|\.)(scaled_fp8|scale_(weight|input)|(weight|input)_scale)$")
"""What no class asks for: scales of weights and of what goes in, and the mark of such a file."""


def is_beside(name: str) -> bool:
    """Whether a tensor only says how others are meant."""
    return BESIDE.search(name) is not None


def scale_of(name: str, names: Container[str]) -> str:
    """The scale of a weight; "" for a tensor without one."""
    if not name.endswith(WEIGHT):
        return ""
    return next((one for end in OF_WEIGHTS if (one := name.removesuffix(WEIGHT) + end) in names), "")


def check_scales(part: str, tensors: Iterable[Tensor]) -> None:
    """Raise Fault MODEL_INCOMPATIBLE for a scale that is neither of a whole weight nor of each of its rows."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    for name, shape in shapes.items():
        scaled = _weight_of(name)
        if scaled and scaled in shapes and math.prod(shape) not in (1, *shapes[scaled][:1]):
            found, expected = list(shape), f"one number, or {list(shapes[scaled][:1])}"
            text = f"{part}: {name} has {found}: expected {expected}, as {scaled} has rows"
            raise incompatible(text, part=part, tensor=name, found=found, expected=expected)


def unscaled(tensor: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """A weight as it is meant, in Float32, as loaders that draw with such files compute it."""
    shape = (-1, *[1] * (tensor.ndim - 1)) if scale.numel() > 1 else ()
    return tensor.float() * scale.float().reshape(shape)


def _weight_of(name: str) -> str:
    ending = next((end for end in OF_WEIGHTS if name.endswith(end)), "")
    return name.removesuffix(ending) + WEIGHT if ending else ""
