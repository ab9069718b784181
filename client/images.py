"""The images of a generate answer as bytes, whichever way they were delivered."""

from __future__ import annotations

import base64
from pathlib import Path

from msgspec import Struct

from client.answers import Answer
from client.ledger import media_type_of
from protocol.commands import Attachment
from protocol.drawing import MASK
from protocol.replies import GeneratedImage, GenerateReply

SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}


class Picture(Struct, frozen=True, kw_only=True):
    """One image file and what the reply says of it."""

    image: GeneratedImage
    data: bytes

    @property
    def suffix(self) -> str:
        """The file suffix of its media type."""
        return SUFFIXES.get(self.image.media_type, ".bin")


def pictures(answer: Answer[GenerateReply]) -> list[Picture]:
    """Every image of the answer. Raises OSError where it was delivered by a path that this machine cannot read."""
    frames = {item.name: data for item, data in zip(answer.reply.attachments, answer.attachments, strict=False)}
    return [Picture(image=image, data=_data_of(image, frames)) for image in answer.reply.images]


def pictured(image: bytes | None, mask: bytes | None) -> tuple[list[Attachment], tuple[bytes, ...]]:
    """The attachments of a `generate` and their bytes. Raises ValueError for a mask without an image."""
    if mask is not None and image is None:
        raise ValueError("a mask needs the image that it lies on")
    given = {"image": image, MASK: mask}
    files = {name: data for name, data in given.items() if data is not None}
    named = [Attachment(name=name, media_type=media_type_of(data), bytes=len(data)) for name, data in files.items()]
    return named, tuple(files.values())


def _data_of(image: GeneratedImage, frames: dict[str, bytes]) -> bytes:
    if image.data is not None:
        return base64.b64decode(image.data)
    if image.path is not None:
        return Path(image.path).read_bytes()
    return frames[image.name]
