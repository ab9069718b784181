"""Image files: rasters to bytes and a client's image to a picture. No ids, no times: equal pixels give equal bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

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
SAME_SHAPE = 0.02
"""By which share of a side a mask's shape may differ from its picture's, as rounding makes it."""

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

    @property
    def size(self) -> tuple[int, int]:
        """Width and height as the file has them, in pixels."""
        return self._image.size

    def decode(self, width: int | None, height: int | None, multiple: int = 8, bands: str = "RGB") -> Image.Image:
        """The image at the size asked for, else at its own made a multiple of `multiple`; RGB, or L for grey."""
        own = self._image.size
        size = (width or _rounded(own[0], multiple), height or _rounded(own[1], multiple))
        return self._safely(lambda: self._decoded(size, bands))

    def _opened(self, data: bytes) -> Image.Image:
        from PIL import Image  # noqa: PLC0415 - see SMALL_PIXELS

        return Image.open(io.BytesIO(data), formats=READABLE)

    def _decoded(self, size: tuple[int, int], bands: str) -> Image.Image:
        from PIL import Image  # noqa: PLC0415 - see SMALL_PIXELS

        plain = self._image.convert(bands)
        self._image.close()
        resampling = Image.Resampling.LANCZOS if bands == "RGB" else Image.Resampling.BILINEAR
        return plain if plain.size == size else plain.resize(size, resampling)

    def _safely(self, call: Callable[[], T]) -> T:
        """What a decoder raises about bytes of a stranger, whatever it is, is about those bytes."""
        try:
            return call()
        except Exception:
            expected = "a PNG, JPEG or WebP image"
            raise invalid(self._field, f"{self._bytes} bytes that are no such image", expected) from None


class Begun:
    """The picture to begin from, and the mask over it: white where to paint, of the same shape.

    `fields` are what errors call the two.
    Raises Fault INVALID_ARGUMENT.
    """

    def __init__(self, picture: bytes, mask: bytes | None, max_side: int, fields: tuple[str, str]) -> None:
        self._source = Source(picture, max_side, fields[0])
        self._over = None if mask is None else Source(mask, max_side, fields[1])
        self.picture: Any = None
        self.mask: Any = None
        if self._over is not None:
            (width, height), (over_width, over_height) = self._source.size, self._over.size
            if abs(width * over_height - height * over_width) > SAME_SHAPE * width * over_height:
                raise invalid(fields[1], f"{over_width} x {over_height}", f"the picture's shape, {width} x {height}")

    def decode(self, width: int | None, height: int | None, multiple: int) -> None:
        """`picture` as RGB and `mask` in grey, both at the size asked for, else at the picture's own."""
        self.picture = self._source.decode(width, height, multiple)
        if self._over is not None:
            self.mask = self._over.decode(self.picture.width, self.picture.height, multiple, "L")


def _rounded(side: int, multiple: int) -> int:
    return max(multiple, side // multiple * multiple)
