"""Image files: rasters to bytes and a client's image to a picture. No ids, no times: equal pixels give equal bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from protocol.enums import ImageFormat
from protocol.errors import invalid
from worker.devices.base import Raster

if TYPE_CHECKING:
    from PIL import Image

T = TypeVar("T")

SMALL_PIXELS = 64 * 64
"""Up to here a PNG is written without an imaging library, which a virtual device never imports."""

MEDIA_TYPES = {ImageFormat.PNG: "image/png", ImageFormat.WEBP: "image/webp", ImageFormat.JPEG: "image/jpeg"}
QUALITY = 95
READABLE = ("PNG", "JPEG", "WEBP")
JPEG_SCAN = b"\xff\xda"
MOST_SCANS = 100
"""Each scan of a progressive JPEG goes over all of its pixels; encoders make about ten."""


def encode(raster: Raster, image_format: ImageFormat) -> bytes:
    """The raster as a file."""
    if image_format is ImageFormat.PNG and raster.width * raster.height <= SMALL_PIXELS:
        return plain_png(raster)
    from PIL import Image  # noqa: PLC0415 - see SMALL_PIXELS

    file = io.BytesIO()
    image = Image.frombytes("RGB", (raster.width, raster.height), raster.rgb)
    if image_format is ImageFormat.PNG:
        image.save(file, "PNG")
    else:
        image.save(file, image_format.value.upper(), quality=QUALITY)
    return file.getvalue()


def plain_png(raster: Raster) -> bytes:
    """An 8-bit RGB PNG without filters (https://www.w3.org/TR/png-3/)."""
    stride = raster.width * 3
    rows = b"".join(b"\0" + raster.rgb[start : start + stride] for start in range(0, len(raster.rgb), stride))
    header = struct.pack(">IIBBBBB", raster.width, raster.height, 8, 2, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows, 9)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


class Source:
    """A client's image as a file: looked at without decoding it, and refused where it would cost more than it may.

    Sides are at most `max_side`, there is one frame, and what a decoder does for each byte is bounded: then decoding
    takes at most 7 bytes a pixel, the decoder's raster of four and the RGB that it becomes.
    Raises Fault INVALID_ARGUMENT, which names `field`.
    """

    def __init__(self, data: bytes, max_side: int, field: str = "attachments[0]") -> None:
        self._field = field
        self._bytes = len(data)
        self._image = self._safely(lambda: self._opened(data))
        width, height = self._image.size
        if not (0 < width <= max_side and 0 < height <= max_side):
            raise invalid(field, f"{width} x {height}", f"sides of at most {max_side} pixels")
        frames = self._safely(lambda: int(getattr(self._image, "n_frames", 1)))
        if frames != 1:
            raise invalid(field, f"{frames} frames", "a picture of one frame")
        if self._image.format == "JPEG" and data.count(JPEG_SCAN) > MOST_SCANS:
            raise invalid(field, f"{data.count(JPEG_SCAN)} scans", f"a JPEG of at most {MOST_SCANS}")

    def decode(self, width: int | None, height: int | None, multiple: int = 8) -> Image.Image:
        """The image as RGB, at the size asked for, else its own made a multiple of `multiple`."""
        own = self._image.size
        size = (width or _rounded(own[0], multiple), height or _rounded(own[1], multiple))
        return self._safely(lambda: self._decoded(size))

    def _opened(self, data: bytes) -> Image.Image:
        from PIL import Image  # noqa: PLC0415 - see SMALL_PIXELS

        return Image.open(io.BytesIO(data), formats=READABLE)

    def _decoded(self, size: tuple[int, int]) -> Image.Image:
        from PIL import Image  # noqa: PLC0415 - see SMALL_PIXELS

        rgb = self._image.convert("RGB")
        self._image.close()
        return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)

    def _safely(self, call: Callable[[], T]) -> T:
        """What a decoder raises about bytes of a stranger, whatever it is, is about those bytes."""
        try:
            return call()
        except Exception:
            expected = "a PNG, JPEG or WebP image"
            raise invalid(self._field, f"{self._bytes} bytes that are no such image", expected) from None


def _rounded(side: int, multiple: int) -> int:
    return max(multiple, side // multiple * multiple)
