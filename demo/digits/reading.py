"""Which digit a picture shows: a small network on 8 x 8 pixels, in plain arithmetic.

Decides as the reader does that was trained beside the model (`demo.digits.training`); knows no torch.
"""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import load_file

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SMALL = 8
READER_FILE = "reader.safetensors"
HERE = Path(__file__).parent
MODEL = HERE / "model"
"""The trained model, a diffusers folder."""

Floats = NDArray[np.float32]


def prompt_of(digit: int) -> str:
    return f"a handwritten {NAMES[digit]}"


def read_digit(picture: bytes) -> tuple[int, float]:
    """The digit of a picture file, white on black, and how sure that is (0-1)."""
    with Image.open(io.BytesIO(picture)) as opened:
        small = opened.convert("L").resize((SMALL, SMALL), Image.Resampling.BOX)
    values = np.asarray(small, np.float32).reshape(-1) / np.float32(255)
    scores = _scores(values)
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    digit = int(shares.argmax())
    return digit, float(shares[digit])


def _scores(values: Floats) -> Floats:
    weights = _weights()
    for index, layer in enumerate(("0", "2", "4")):
        values = weights[f"{layer}.weight"] @ values + weights[f"{layer}.bias"]
        if index < 2:
            values = np.maximum(values, 0)
    return values


@cache
def _weights() -> dict[str, Floats]:
    found: dict[str, Floats] = load_file(HERE / READER_FILE)
    return found
