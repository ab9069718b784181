"""What each target tries at each level, in this order, and what a step may cost to be kept.

A step is a change of the configuration that the model is loaded under; so trying is a load, and undoing is one.
"""

from __future__ import annotations

import enum

import msgspec

from protocol.enums import ModelOptimizationTarget as Target
from protocol.enums import ModelPrecision
from protocol.enums import OptimizationLevel as Level
from protocol.records import ModelLoadConfiguration, Record
from worker.options import COMPILATION, FLASH, OFFLOADING, ONNX, SLICING, SPLITTING, TENSOR_RT


class Step(enum.Enum):
    """One change; the value is the wire name of the option."""

    FULL = "precision: Float32"
    SIXTEEN = "precision: 16 bits"
    INT8 = "precision: Int8"
    INT4 = "precision: Int4"
    SLICING = SLICING
    FLASH = FLASH
    OFFLOADING = OFFLOADING
    SPLITTING = SPLITTING
    COMPILATION = COMPILATION
    TENSOR_RT = TENSOR_RT
    ONNX = ONNX


TABLE: dict[Target, dict[Level, tuple[Step, ...]]] = {
    Target.Speed: {
        Level.Basic: (Step.FLASH,),
        Level.Balanced: (Step.SIXTEEN, Step.FLASH),
        Level.Aggressive: (Step.SIXTEEN, Step.FLASH, Step.COMPILATION),
        Level.Maximum: (Step.SIXTEEN, Step.FLASH, Step.COMPILATION, Step.TENSOR_RT, Step.ONNX),
    },
    Target.Memory: {
        Level.Basic: (Step.SLICING,),
        Level.Balanced: (Step.SIXTEEN, Step.SLICING),
        Level.Aggressive: (Step.SIXTEEN, Step.INT8, Step.SLICING, Step.OFFLOADING),
        Level.Maximum: (Step.SIXTEEN, Step.INT8, Step.INT4, Step.SLICING, Step.SPLITTING),
    },
    Target.Quality: dict.fromkeys((Level.Basic, Level.Balanced, Level.Aggressive, Level.Maximum), (Step.FULL,)),
    Target.Balanced: {
        Level.Basic: (Step.FLASH,),
        Level.Balanced: (Step.SIXTEEN, Step.FLASH),
        Level.Aggressive: (Step.SIXTEEN, Step.INT8, Step.FLASH),
        Level.Maximum: (Step.SIXTEEN, Step.INT8, Step.FLASH, Step.OFFLOADING),
    },
}


class Bounds(Record, frozen=True, kw_only=True):
    """What a step may cost: the least likeness (SSIM) to the pictures before, and times as long a step of a picture."""

    least_likeness: float
    most_slowdown: float


BOUNDS = {
    Level.Basic: Bounds(least_likeness=0.99, most_slowdown=1.1),
    Level.Balanced: Bounds(least_likeness=0.97, most_slowdown=1.25),
    Level.Aggressive: Bounds(least_likeness=0.9, most_slowdown=2.0),
    Level.Maximum: Bounds(least_likeness=0.8, most_slowdown=4.0),
}

GAIN = 0.03
"""What a step must gain, as a share: less is within what measurements differ by."""

PRECISIONS = {Step.FULL: ModelPrecision.Float32, Step.INT8: ModelPrecision.Int8, Step.INT4: ModelPrecision.Int4}


def steps_of(target: Target, level: Level) -> tuple[Step, ...]:
    return TABLE[target].get(level, ())


def changed(step: Step, before: ModelLoadConfiguration, sixteen: ModelPrecision) -> ModelLoadConfiguration:
    """The configuration with this step in it; `sixteen` is the type of 16 bits that the device computes well in."""
    replace = msgspec.structs.replace
    if step in PRECISIONS or step is Step.SIXTEEN:
        return replace(before, precision=PRECISIONS.get(step, sixteen))
    name = step.value
    if name in before.memory_optimization.__struct_fields__:
        return replace(before, memory_optimization=replace(before.memory_optimization, **{name: True}))
    return replace(before, performance_optimization=replace(before.performance_optimization, **{name: True}))


def option_of(step: Step) -> str:
    """The option's wire name."""
    return step.value.partition(":")[0]
