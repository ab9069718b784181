"""What an optimisation measures with. Decides what each parameter means, and names one that makes no sense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from protocol import commands as c
from protocol.checks import MAX_SEED, optimization_target
from protocol.enums import ModelOptimizationTarget, OptimizationLevel
from protocol.errors import invalid
from protocol.records import Record
from protocol.replies import Limits

PROMPTS = ("a lighthouse at the sea, in the evening", "a portrait of an old sailor")
BUDGET_SECONDS = 20.0
MOST_BUDGET_SECONDS = 86_400.0
STEPS = 4
SEED = 1
MOST_PROMPTS = 16
FIELD = "parameters."
KNOWN = frozenset({"width", "height", "steps", "prompts", "seed", "budget_seconds"})


class Settings(Record, frozen=True, kw_only=True):
    """Sides in pixels, None for small ones of the model's own."""

    target: ModelOptimizationTarget
    level: OptimizationLevel
    width: int | None
    height: int | None
    steps: int
    prompts: tuple[str, ...]
    seed: int
    budget_seconds: float
    unknown: tuple[str, ...]


def settings_of(command: c.OptimizeModel, limits: Limits) -> Settings:
    """What the command asks for. Raises Fault INVALID_ARGUMENT, MISSING_PARAMETER."""
    given = command.parameters
    return Settings(
        target=optimization_target(command),
        level=command.level,
        width=_side(given, "width", limits),
        height=_side(given, "height", limits),
        steps=int(_number(given, "steps", STEPS, 1, limits.steps, whole=True)),
        prompts=_prompts(given, limits),
        seed=int(_number(given, "seed", SEED, 0, MAX_SEED, whole=True)),
        budget_seconds=_number(given, "budget_seconds", BUDGET_SECONDS, 0.001, MOST_BUDGET_SECONDS),
        unknown=tuple(sorted(given.keys() - KNOWN)),
    )


def _side(given: Mapping[str, Any], name: str, limits: Limits) -> int | None:
    if given.get(name) is None:
        return None
    side = int(_number(given, name, 0, limits.min_side, limits.max_side, whole=True))
    if side % limits.side_multiple:
        raise invalid(FIELD + name, given[name], f"a multiple of {limits.side_multiple}")
    return side


def _number(
    given: Mapping[str, Any], name: str, otherwise: float, low: float, high: float, *, whole: bool = False
) -> float:
    value = given.get(name)
    if value is None:
        return otherwise
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not low <= value <= high or (whole and value != int(value)):
        raise invalid(FIELD + name, value, f"a {'whole ' if whole else ''}number from {low:g} to {high:g}")
    return value  # type: ignore[no-any-return]


def _prompts(given: Mapping[str, Any], limits: Limits) -> tuple[str, ...]:
    value = given.get("prompts")
    if value is None:
        return PROMPTS
    found = [value] if isinstance(value, str) else value
    right = isinstance(found, list) and 0 < len(found) <= MOST_PROMPTS
    if not right or not all(
        isinstance(one, str) and len(one.encode(errors="replace")) <= limits.prompt_bytes for one in found
    ):
        raise invalid(FIELD + "prompts", value, f"1 to {MOST_PROMPTS} texts of at most {limits.prompt_bytes} bytes")
    return tuple(found)
