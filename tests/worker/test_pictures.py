"""A client's picture before and while it is decoded: both sides of every limit, and bytes that are no picture."""

from __future__ import annotations

import io
import random
import struct
import tracemalloc
import zlib

import pytest
from PIL import Image

from protocol.errors import ErrorCode, Fault
from worker.pictures import MOST_SCANS, Source

SIDE = 256


def png(width: int, height: int, rows: bytes | None = None) -> bytes:
    """A PNG of black pixels of one bit, which costs next to no bytes."""
    line = b"\0" * (1 + (width + 7) // 8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    data = zlib.compress(line * height if rows is None else rows, 9)
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def saved(image_format: str, frames: int = 1, **options: object) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", (32, 24), (index * 40, 90, 200)) for index in range(frames)]
    more = {"save_all": True, "append_images": pictures[1:]} if frames > 1 else {}
    pictures[0].save(file, image_format, **more, **options)
    return file.getvalue()


def refusal(data: bytes, decode: bool = False) -> str:
    with pytest.raises(Fault) as caught:
        source = Source(data, SIDE, "attachments[1]")
        assert decode
        source.decode(None, None)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert caught.value.info.details["field"] == "attachments[1]"
    return str(caught.value)


@pytest.mark.parametrize(("width", "height"), [(SIDE, 1), (1, SIDE), (SIDE, SIDE), (1, 1)])
def test_sides_up_to_the_limit_are_decoded_at_a_whole_multiple(width: int, height: int) -> None:
    image = Source(png(width, height), SIDE).decode(None, None, 8)
    assert image.size == (max(8, width // 8 * 8), max(8, height // 8 * 8))


@pytest.mark.parametrize(("width", "height"), [(SIDE + 1, 8), (8, SIDE + 1), (8_000_000, 1), (1, 1 << 24)])
def test_a_side_beyond_the_limit_is_refused_before_it_is_decoded(width: int, height: int) -> None:
    data = png(width, height, rows=b"")
    tracemalloc.start()
    assert f"{width} x {height}" in refusal(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_the_size_asked_for_is_the_size() -> None:
    assert Source(png(100, 50), SIDE).decode(64, 32).size == (64, 32)
    assert Source(png(100, 50), SIDE).decode(None, 32, 16).size == (96, 32)


@pytest.mark.parametrize("image_format", ["PNG", "WEBP", "JPEG"])
def test_formats_with_one_frame_are_read_and_with_two_are_not(image_format: str) -> None:
    assert Source(saved(image_format), SIDE).decode(None, None).size == (32, 24)
    if image_format != "JPEG":
        assert "2 frames" in refusal(saved(image_format, frames=2))


@pytest.mark.parametrize("image_format", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused(image_format: str) -> None:
    assert "a PNG, JPEG or WebP image" in refusal(saved(image_format))


def test_a_jpeg_of_many_scans_is_refused() -> None:
    data = saved("JPEG", progressive=True)
    assert Source(data, SIDE).decode(None, None).size == (32, 24)
    scans = data.count(b"\xff\xda")
    at = data.rindex(b"\xff\xda")
    scan = data[at:-2]
    assert Source(data[:-2] + scan * (MOST_SCANS - scans) + data[-2:], SIDE)
    assert f"{MOST_SCANS + 1} scans" in refusal(data[:-2] + scan * (MOST_SCANS + 1 - scans) + data[-2:])


def test_whatever_the_bytes_are_the_answer_is_about_them() -> None:
    chance = random.Random(7)
    whole = [saved("PNG"), saved("WEBP"), saved("JPEG"), saved("JPEG", progressive=True)]
    decoded = 0
    for _ in range(600):
        data = bytearray(chance.choice(whole))
        for _ in range(chance.randint(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randint(8, len(data)) :]
        try:
            Source(bytes(data), SIDE).decode(None, None)
            decoded += 1
        except Fault as fault:
            assert fault.code is ErrorCode.INVALID_ARGUMENT
    assert decoded < 600
    for data in (b"", b"nope", b"\x89PNG\r\n\x1a\n", b"RIFF\xff\xff\xff\xffWEBPVP8L"):
        assert "no such image" in refusal(data)
