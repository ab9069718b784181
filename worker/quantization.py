"""Weights in fewer than 16 bits: plain tensors of whole numbers or of fp8, and scales, widened where they are used.

Decides which layers hold their weights so, and the formulas. A layer keeps its class, in a subclass whose `weight` is
the widened one: what libraries ask of it stays true, adapters act on it, and its bytes lie in tensors like any other's,
which are shared, copied into the RAM tier and compared. Activations and what is not the weight of a layer of `LAYERS`
stay in the type that is computed in.

Int8: one scale for each output channel, `scale = max|w| / 127`, `q = round(w / scale)`. Float8: E4M3, likewise with the
type's greatest value, 448. Int4: as GGUF's Q4_0, one scale for each 32 values in a row, `scale = w / -8` of the
greatest, `q = round(w / scale) + 8`, two in a byte, the first in the lower half; Int8 for rows that 32 does not divide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from protocol.enums import ModelPrecision
from protocol.records import Record

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)

GROUP = 32
"""Values that have one scale in Int4."""

LEAST_ROW = 8
"""Values in a row below which its scale would be most of it."""

SUFFIXES = ("quantized", "scale")
"""What stands in a layer's place of its `weight`."""


class Scheme(Record, frozen=True, kw_only=True):
    """How weights are held: `kind` as `ModelPrecision`, widened to `compute`."""

    kind: ModelPrecision
    compute: torch.dtype

    @staticmethod
    def of(kind: ModelPrecision, compute: torch.dtype, part: str) -> Scheme | None:
        """How a part of this name is held; a VAE, whose errors are seen as they are, in Int8 at the least."""
        if not part.startswith("vae"):
            return Scheme(kind=kind, compute=compute)
        return None if kind is ModelPrecision.Float8 else Scheme(kind=ModelPrecision.Int8, compute=compute)


class Quantized:
    """What a quantized layer is beside its own class."""

    quantized: torch.Tensor
    scale: torch.Tensor
    full: torch.Size

    @property
    def weight(self) -> torch.Tensor:
        """As the layer's class knows it, in the type of the scales."""
        return _widened(self.quantized, self.scale).view(self.full)


class QuantizedEmbedding(Quantized):
    """Widens the rows that are looked up alone."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = _widened(self.quantized[ids.reshape(-1)], self.scale[ids.reshape(-1)])
        return rows.view(*ids.shape, -1)


def quantize(module: nn.Module, scheme: Scheme, check: Callable[[], None]) -> nn.Module:
    """Hold a module's weights so, in place; `check` raises to end it half-way. The module is of no use then."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in _layers(module):
        check()
        weight: torch.Tensor = layer.weight
        if id(weight) not in made:
            made[id(weight)] = _narrowed(weight.detach().reshape(len(weight), -1), scheme)
        _swap(layer, *made[id(weight)])
    _narrow_others(module, scheme.compute)
    return module


def prepare(module: nn.Module, scheme: Scheme) -> nn.Module:
    """Give a module without memory the places of a quantized one, for tensors that are there already."""
    made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for layer in _layers(module):
        weight: torch.Tensor = layer.weight
        rows = len(weight)
        if id(weight) not in made:
            kind = _kind_of(weight.numel() // rows, scheme)
            width, scales = _sizes(weight.numel() // rows, kind)
            made[id(weight)] = (
                torch.empty((rows, width), dtype=_TYPES[kind], device="meta"),
                torch.empty((rows, scales), dtype=scheme.compute, device="meta"),
            )
        _swap(layer, *made[id(weight)])
    return module


def layers_by_type(module: nn.Module) -> dict[str, int]:
    """How many layers hold their weights in which type, those of `LAYERS` alone: what evidence shows."""
    found: dict[str, int] = {}
    for layer in module.modules():
        if isinstance(layer, LAYERS):
            name = str(layer.quantized.dtype if isinstance(layer, Quantized) else layer.weight.dtype)
            name = name.removeprefix("torch.").replace("uint8", "int4")
            found[name] = found.get(name, 0) + 1
    return found


_TYPES = {
    ModelPrecision.Int8: torch.int8,
    ModelPrecision.Int4: torch.uint8,
    ModelPrecision.Float8: torch.float8_e4m3fn,
}


_classes: dict[type[Any], type[Any]] = {}
"""The quantized class of each class of layers."""


def _layers(module: nn.Module) -> Iterator[Any]:
    """The layers whose weights are worth it."""
    for layer in list(module.modules()):
        if isinstance(layer, Quantized) or not isinstance(layer, LAYERS):
            continue
        if isinstance(layer, nn.Embedding) and type(layer) is not nn.Embedding:
            continue  # it scales what it looks up
        if layer.weight.numel() // max(1, len(layer.weight)) >= LEAST_ROW:
            yield layer


def _swap(layer: Any, quantized: torch.Tensor, scale: torch.Tensor) -> None:
    full = layer.weight.shape
    del layer._parameters["weight"]
    layer.__class__ = _class(type(layer))
    layer.full = full
    layer.register_buffer("quantized", quantized)
    layer.register_buffer("scale", scale)


def _class(cls: type[Any]) -> type[Any]:
    if cls not in _classes:
        base = QuantizedEmbedding if cls is nn.Embedding else Quantized
        _classes[cls] = type(f"Quantized{cls.__name__}", (base, cls), {"__module__": __name__})
    return _classes[cls]


def _narrowed(rows: torch.Tensor, scheme: Scheme) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights [rows, values] as the tensors that hold them, and their scales [rows, scales]."""
    kind = _kind_of(rows.shape[1], scheme)
    values = rows.float()
    if kind is ModelPrecision.Int4:
        return _in_four_bits(values, scheme.compute)
    greatest = 127.0 if kind is ModelPrecision.Int8 else torch.finfo(torch.float8_e4m3fn).max
    scale = (values.abs().amax(1, keepdim=True) / greatest).to(scheme.compute)
    quotients = (values / _nonzero(scale)).clamp_(-greatest, greatest)
    return (quotients.round_() if kind is ModelPrecision.Int8 else quotients).to(_TYPES[kind]), scale


def _in_four_bits(values: torch.Tensor, compute: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    groups = values.view(len(values), -1, GROUP)
    greatest = groups.gather(2, groups.abs().argmax(2, keepdim=True))
    scale = (greatest / -8).to(compute)
    steps = (groups / _nonzero(scale)).round_().add_(8).clamp_(0, 15).to(torch.uint8).view(len(values), -1)
    return steps[:, 0::2] | (steps[:, 1::2] << 4), scale.squeeze(2)


def _widened(quantized: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """[rows, values] in the type of the scales."""
    if quantized.dtype is not torch.uint8:
        return quantized.to(scale.dtype) * scale
    steps = torch.stack((quantized & 15, quantized >> 4), dim=2).to(scale.dtype) - 8
    return (steps.view(len(quantized), -1, GROUP) * scale.unsqueeze(2)).view(len(quantized), -1)


def _nonzero(scale: torch.Tensor) -> torch.Tensor:
    """What a row is divided by: of one that is all zeros, or too small for the type, anything."""
    return torch.where(scale == 0, torch.ones_like(scale), scale).float()


def _kind_of(row: int, scheme: Scheme) -> ModelPrecision:
    if scheme.kind is ModelPrecision.Int4 and row % GROUP:
        return ModelPrecision.Int8
    return scheme.kind


def _sizes(row: int, kind: ModelPrecision) -> tuple[int, int]:
    """Columns of a row's values, and of its scales."""
    return (row // 2, row // GROUP) if kind is ModelPrecision.Int4 else (row, 1)


def _narrow_others(module: nn.Module, compute: torch.dtype) -> None:
    """What is left in more than 16 bits, such as layers that a class keeps in Float32."""
    for parameter in module.parameters():
        if parameter.dtype.is_floating_point and parameter.dtype.itemsize > compute.itemsize:
            parameter.data = parameter.data.to(compute)
