"""Ten digits in one picture: what the model draws for each name, and what the reader takes it for."""

from __future__ import annotations

import io
from pathlib import Path

from msgspec import Struct
from PIL import Image

from client import Client, pictures
from demo.digits.reading import NAMES, prompt_of, read_digit

GAP = 6
SEED = 1
ROW = 5


class Drawn(Struct, frozen=True):
    """What was asked for, what the reader says of it, and how sure it is (0-1)."""

    digit: int
    read: int
    share: float


def draw_sheet(client: Client, model_id: str, file: Path) -> list[Drawn]:
    """Draw every digit with the model's own settings, five to a row, into a file. Raises CommandFailed, NoAnswer."""
    drawn, images = [], []
    for digit in range(len(NAMES)):
        data = pictures(client.generate(model_id, prompt_of(digit), seed=SEED + digit))[0].data
        images.append(Image.open(io.BytesIO(data)).convert("RGB"))
        drawn.append(Drawn(digit, *read_digit(data)))
    width, height = images[0].size
    rows = (len(images) + ROW - 1) // ROW
    sheet = Image.new("RGB", (ROW * (width + GAP) + GAP, rows * (height + GAP) + GAP), "white")
    for index, image in enumerate(images):
        row, column = divmod(index, ROW)
        sheet.paste(image, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
    return drawn
