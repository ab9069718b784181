"""Text that is no Unicode, made such that it can be written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelfiles.text import cleaned, holds_text, is_text, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ü", "plain ü"),
        (Path("a/b"), "a/b"),
        (os.fsdecode(b"x\xff.safetensors"), "x\\xff.safetensors"),
        ("half \ud83d of a pair", "half \\ud83d of a pair"),
    ],
)
def test_anything_can_be_shown(text: str | Path, expected: str) -> None:
    assert shown(text) == expected
    assert is_text(shown(text))


def test_whole_pairs_are_joined_and_halves_replaced() -> None:
    assert cleaned("\ud83d\ude00 and \ud83d") == "\U0001f600 and \ufffd"


@pytest.mark.parametrize("value", ["\ud83d", ["a", "\ud83d"], {"\ud83d": 1}, {"a": {"b": ["\udc00"]}}])
def test_a_half_is_found_wherever_it_stands(value: object) -> None:
    assert not holds_text(value) and holds_text({"a": ["b", 1, None]})
