"""How much memory a run needs beside its model's weights: measured once for each shape of run, else derived.

Of a shape that was not measured: the least that any measured one lets expect, its own working memory, more where it has
fewer pixels. Before any was: the family's bytes for each pixel in half precision (`working_bytes_per_pixel`), by the
width of the values and by that of the VAE's last layers, whose activations they are.
"""

from __future__ import annotations

from typing import Any

from protocol.records import Record
from worker.devices.base import DrawOrder

VAE_WIDTH = 128
"""Channels of the VAE's last layers that families' bytes for each pixel are for."""

BASE_WIDTH = 96
"""The same, of VAEs that tell a `base_dim`."""

HALF_BYTES = 2

MOST_SHAPES = 64
"""Remembered of one model; the one measured longest ago is forgotten."""


class Shape(Record, frozen=True):
    """What decides a run's memory; sides in pixels, None for the model's own."""

    width: int | None
    height: int | None
    images: int
    begun: bool
    masked: bool
    controlled: bool
    guidance_scale: float | None

    @staticmethod
    def of(order: DrawOrder) -> Shape:
        begun, masked, controlled = (part is not None for part in (order.source, order.mask, order.control))
        return Shape(order.width, order.height, len(order.seeds), begun, masked, controlled, order.guidance_scale)


class Work:
    """A model's working memory by shape; `bytes_per_pixel` is derived, `side` drawn where none is asked for."""

    def __init__(self, bytes_per_pixel: float, side: int) -> None:
        self._bytes_per_pixel = bytes_per_pixel
        self._side = side
        self._measured: dict[Shape, int] = {}

    def measured(self, shape: Shape) -> int | None:
        """Bytes beside the weights, where a run of this shape was measured."""
        return self._measured.get(shape)

    def note(self, shape: Shape, size_bytes: int) -> None:
        self._measured[shape] = max(0, size_bytes)
        if len(self._measured) > MOST_SHAPES:
            del self._measured[next(iter(self._measured))]

    def expected(self, shape: Shape) -> int:
        """Bytes beside the weights."""
        known = self._measured.get(shape)
        if known is not None:
            return known
        wanted = self._pixels(shape)
        if not self._measured:
            return int(wanted * self._bytes_per_pixel)
        return int(min(size * max(1.0, wanted / self._pixels(one)) for one, size in self._measured.items()))

    def _pixels(self, shape: Shape) -> int:
        return (shape.width or self._side) * (shape.height or self._side) * shape.images


def bytes_per_pixel(family_bytes: int, value_bytes: int, vae_config: Any) -> float:
    """The derived figure of a model: its family's, by the bytes of a value and the width of its VAE."""
    widths = vae_config.get("block_out_channels")
    base = vae_config.get("base_dim")
    share = widths[0] / VAE_WIDTH if widths else base / BASE_WIDTH if base else 1.0
    return family_bytes * value_bytes / HALF_BYTES * share
