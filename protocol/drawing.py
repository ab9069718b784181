"""What a `generate` asks to draw: from text, from a picture, within a mask; told by its attachments' names.

Decides which attachment is which. What they hold is the worker's to look at.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

from protocol import commands as c
from protocol.errors import invalid, missing


class Mode(enum.Enum):
    """A way to draw, in the words of `supported_inference_types`."""

    TEXT = "text-to-image"
    IMAGE = "image-to-image"
    INPAINT = "inpaint"


MASK = "mask"
CONTROL = "control"


class Given(NamedTuple):
    """The places of a command's attachments: the picture to begin from, the mask that is white where to paint, and the
    picture that a ControlNet follows."""

    picture: int | None
    mask: int | None
    control: int | None = None

    @property
    def mode(self) -> Mode:
        if self.picture is None:
            return Mode.TEXT
        return Mode.IMAGE if self.mask is None else Mode.INPAINT


def given(attachments: Sequence[c.Attachment]) -> Given:
    """Which attachment is which: one is named `mask`, one `control`, the other is the picture.

    Raises Fault INVALID_ARGUMENT for two of a kind, MISSING_PARAMETER for a mask without a picture.
    """
    picture = mask = control = None
    for index, attachment in enumerate(attachments):
        if attachment.name == CONTROL:
            if control is not None:
                raise invalid(f"attachments[{index}].name", CONTROL, "one picture for the ControlNet")
            control = index
        elif attachment.name == MASK:
            if mask is not None:
                raise invalid(f"attachments[{index}].name", MASK, "one mask")
            mask = index
        elif picture is None:
            picture = index
        else:
            text = f"one picture, and beside it one named '{MASK}' and one named '{CONTROL}'"
            raise invalid(f"attachments[{index}].name", attachment.name, text)
    if mask is not None and picture is None:
        raise missing("attachments", ": a mask needs the picture that it lies on")
    return Given(picture, mask, control)
