"""What an optimisation measures with. Decides what each parameter means, and names one that makes no sense."""

from __future__ import annotations

from protocol import commands as c
from protocol.checks import MAX_SEED, optimization_target
from protocol.enums import ModelOptimizationTarget, OptimizationLevel
from protocol.records import Record
from protocol.replies import Limits
from worker.parameters import Parameters

PROMPTS = ("a lighthouse at the sea, in the evening", "a portrait of an old sailor")
BUDGET_SECONDS = 20.0
MOST_BUDGET_SECONDS = 86_400.0
STEPS = 4
SEED = 1
MOST_PROMPTS = 16
FIELD = "parameters."


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
    given = Parameters(command.parameters, FIELD, limits.prompt_bytes)
    sides = (limits.min_side, limits.max_side, limits.side_multiple)
    return Settings(
        target=optimization_target(command),
        level=command.level,
        width=given.whole("width", None, *sides),
        height=given.whole("height", None, *sides),
        steps=given.whole("steps", STEPS, 1, limits.steps) or STEPS,
        prompts=given.texts("prompts", PROMPTS, MOST_PROMPTS),
        seed=given.whole("seed", SEED, 0, MAX_SEED) or 0,
        budget_seconds=given.number("budget_seconds", BUDGET_SECONDS, 0.001, MOST_BUDGET_SECONDS),
        unknown=given.unknown(),
    )
