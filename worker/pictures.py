"""Image files: rasters to bytes and a client's image to a picture. No ids, no times: equal pixels give equal bytes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING

from protocol.enums import ImageFormat
from protocol.errors import invalid
from worker.devices.base import Raster

if TYPE_CHECKING:
    from PIL import Image

SMALL_PIXELS = 64 * 64
"""Up to here a PNG is written without an imaging library, which a virtual device never imports."""

MEDIA_TYPES = {ImageFormat.PNG: "image/png", ImageFormat.WEBP: "image/webp", ImageFormat.JPEG: "image/jpeg"}
QUALITY = 95
MAX_PIXELS = 8192 * 8192
READABLE = ("PNG", "JPEG", "WEBP")


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


def decode(data: bytes, width: int | None, height: int | None, multiple: int = 8) -> Image.Image:
    """A client's image as RGB, at the size asked for, else its own made a multiple of `multiple`.

    Raises Fault INVALID_ARGUMENT.
    """
    from PIL import Image  # noqa: PLC0415 - see SMALL_PIXELS

    expected = "a PNG, JPEG or WebP image"
    try:
        image = Image.open(io.BytesIO(data), formats=READABLE)
        if image.width * image.height > MAX_PIXELS:
            raise invalid("attachments[0]", f"{image.width} x {image.height}", f"at most {MAX_PIXELS} pixels")
        image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, struct.error):
        raise invalid("attachments[0]", f"{len(data)} bytes that are no such image", expected) from None
    size = (width or _rounded(image.width, multiple), height or _rounded(image.height, multiple))
    rgb = image.convert("RGB")
    return rgb if rgb.size == size else rgb.resize(size, Image.Resampling.LANCZOS)


def _rounded(side: int, multiple: int) -> int:
    return max(multiple, side // multiple * multiple)
