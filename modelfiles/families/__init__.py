"""The families of models that draw pictures: one module each, found here, read by everybody else.

Decides which family a name, the wire's word or a folder's pipeline stands for. A new family is one more module.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection, Mapping
from pathlib import Path

from modelfiles.families.record import Family, SchedulerKind
from protocol.enums import ModelType

__all__ = ["ALL", "CONFIGURATIONS", "Family", "SchedulerKind", "flat", "named", "of_folder", "of_type"]

CONFIGURATIONS = Path(__file__).parents[1] / "configurations"
"""The project's own configurations for single files, a folder each."""

_RECORD = "record"
ALL: tuple[Family, ...] = tuple(
    importlib.import_module(f"{__name__}.{module.name}").FAMILY
    for module in pkgutil.iter_modules(__path__)
    if module.name != _RECORD
)
_BY_NAME: Mapping[str, Family] = {family.name: family for family in ALL}
_BY_TYPE: Mapping[ModelType, Family] = {
    family.type: family for family in reversed(ALL) if family.type is not ModelType.Diffusion
}


def named(name: str) -> Family | None:
    """The family of this name; None for a name that is none, such as "" of what belongs to no family."""
    return _BY_NAME.get(name)


def of_type(kind: ModelType) -> Family | None:
    """The family that the wire's word stands for, of several the first; None for a part, or for what has no word."""
    return _BY_TYPE.get(kind)


def of_folder(class_name: str, denoiser: Mapping[str, object], parts: Collection[str]) -> Family:
    """The family of a folder, by its pipeline's class and, where families share that, its denoiser's configuration and
    its parts.

    Raises LookupError for a class that no family has.
    """
    sharing = [family for family in ALL if class_name in family.pipelines]
    fitting = [
        family
        for family in sharing
        if all(flat(denoiser.get(key)) in values for key, values in family.config_marks.items())
        and not family.lacks & set(parts)
    ]
    if not sharing:
        raise LookupError(f"no family has the pipeline {class_name}")
    return max(fitting or sharing, key=lambda family: len(family.config_marks) + len(family.lacks))


def flat(value: object) -> object:
    """The one value of a list that has it for every block."""
    if isinstance(value, list) and value and len(set(map(str, value))) == 1:
        return value[0]
    return value
