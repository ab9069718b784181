"""The kinds of values that a configuration may have: a test for each, and the words for it in an error."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

Rule = Callable[[object], bool]
LONGEST_WORD = 256
LONGEST_LIST = 64
LONGEST_BETAS = 10_000
MOST_TIMESTEPS = 10_000
"""Of a schedule, in training: families have 1,000. Its tables are as long."""


class Value(NamedTuple):
    """What a key's value may be, and the words for it in an error."""

    fits: Rule
    expected: str

    def or_null(self) -> Value:
        return Value(lambda value: value is None or self.fits(value), f"{self.expected}, or null")

    def or_else(self, other: Value) -> Value:
        """What one class reads as this, and another as that."""
        if other == self:
            return self
        return Value(lambda value: self.fits(value) or other.fits(value), f"{self.expected}, or {other.expected}")

    def or_list(self, least: int = 1) -> Value:
        """One for all blocks, or one for each."""
        several = listed(self, least)
        return Value(lambda value: self.fits(value) or several.fits(value), f"{self.expected}, or a list of such")


def whole(low: int, high: int) -> Value:
    """An integer; JSON's true is none."""
    return Value(lambda value: type(value) is int and low <= value <= high, f"an integer from {low:,} to {high:,}")


def real(low: float, high: float) -> Value:
    """A number; what is not finite was refused where it was read."""
    return Value(
        lambda value: type(value) in (int, float) and low <= value <= high,  # type: ignore[operator]
        f"a number from {low:g} to {high:g}",
    )


def one_of(*words: str) -> Value:
    return Value(lambda value: value in words, f"one of {', '.join(words)}")


def listed(item: Value, least: int = 1, most: int = LONGEST_LIST) -> Value:
    """A list of such values."""
    return Value(
        lambda value: isinstance(value, list) and least <= len(value) <= most and all(map(item.fits, value)),
        f"a list of {least} to {most:,}, each {item.expected}",
    )


FLAG = Value(lambda value: value is None or isinstance(value, bool), "true or false")
WORD = Value(lambda value: isinstance(value, str) and len(value) <= LONGEST_WORD, f"text of at most {LONGEST_WORD}")
ANY_WORD = WORD.or_null()
COUNT = whole(1, 1024)
SOME = whole(0, 1024)
WIDTH = whole(1, 1 << 17)
SIDE = whole(1, 1 << 14)
TOKEN = Value(lambda value: value is None or (type(value) is int and -1 <= value < 1 << 24), "a token's number")
RATE = real(0, 1)
FACTOR = real(-1e6, 1e6)
SMALL = real(0, 1)
BETA = real(1e-12, 1)
SPACING = one_of("linspace", "leading", "trailing")
PREDICTION = one_of("epsilon", "v_prediction", "sample", "flow_prediction")
BETA_SCHEDULES = one_of("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace", "exponential")
ACTIVATION = one_of("silu", "swish", "mish", "gelu", "relu")


EDGES = Value(
    lambda value: all(map(SIDE.fits, value.values())) if isinstance(value, dict) else SIDE.fits(value),
    f"{SIDE.expected}, or an object of such",
)


SPECIAL = Value(
    lambda value: value is None or WORD.fits(value) or (isinstance(value, dict) and WORD.fits(value.get("content"))),
    "a token's text",
)


_VERSION = re.compile(r"\d{1,4}(\.\d{1,6}){1,3}[A-Za-z0-9.+-]{0,40}")
VERSION = Value(
    lambda value: isinstance(value, str) and _VERSION.fullmatch(value) is not None, "a version such as 0.30.0"
)


def keys(value: Value, *names: str) -> dict[str, Value]:
    """One value for several keys."""
    return dict.fromkeys(names, value)
