"""A model's components, and the pipelines over them that its family's record names.

Decides how a record's words become a library's calls. What differs between families is said in the records.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import torch

from modelfiles import schedulers
from modelfiles.families import Family
from protocol.drawing import Mode
from worker import schedules


class Pipelines:
    """A model's components and the pipelines over them. Each run has a scheduler of its own: they carry state."""

    def __init__(self, family: Family, components: dict[str, Any], settings: dict[str, Any]) -> None:
        self.family = family
        self.components = components
        self.settings = settings

    def modules(self) -> Iterator[torch.nn.Module]:
        """The components that have weights."""
        for _, module in self.named_modules():
            yield module

    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        for name, component in self.components.items():
            if isinstance(component, torch.nn.Module):
                yield name, component

    @property
    def denoiser(self) -> torch.nn.Module:
        found = self.components[self.family.denoiser.part]
        assert isinstance(found, torch.nn.Module)
        return found

    @property
    def zeroes_empty(self) -> bool:
        """Whether no negative prompt is one of zeros, not an empty one."""
        return bool(self.settings.get("force_zeros_for_empty_prompt", True))

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance changes anything: a model that was distilled for few steps may have none."""
        switch = self.family.guidance.switch
        config: Any = self.denoiser.config
        return not switch or bool(config[switch])

    def pipeline(
        self, mode: Mode, scheduler: str, device: torch.device | None = None, *, controlled: bool = False
    ) -> Any:
        """A pipeline over the components with a fresh scheduler. Raises Fault INVALID_ARGUMENT.

        `controlled`: one that follows a ControlNet. `device` is where it computes, while its components wait elsewhere;
        None: where they are.
        """
        cls = pipeline_class(self.family, mode, controlled=controlled)
        if device is not None:
            computes = {"_execution_device": property(lambda _: device), "__module__": cls.__module__}
            cls = type(cls.__name__, (cls,), computes)
        accepted = inspect.signature(cls.__init__).parameters
        given = {
            **self.components,
            **self.settings,
            "scheduler": schedules.named(self.components["scheduler"], scheduler),
        }
        arguments = {name: value for name, value in given.items() if name in accepted}
        pipeline = cls(**arguments)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def default_steps(self, pipeline: Any) -> int:
        """What the pipeline itself takes, fewer where the model was distilled for that."""
        if not self.takes_guidance:
            return self.family.guidance.few_steps
        if self._distilled is not None:
            return self._distilled.steps
        return int(inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default)

    @property
    def default_guidance(self) -> float | None:
        """The guidance where none is asked for; None leaves it to the pipeline."""
        return self._distilled.guidance if self._distilled is not None else None

    @property
    def _distilled(self) -> schedulers.Distilled | None:
        own = self.components["scheduler"]
        return schedulers.distilled(type(own).__name__, own.config)

    def default_sides(self, pipeline: Any, max_side: int) -> tuple[int, int]:
        """Width and height where none are asked for: the model's own, up to its family's and to `max_side`."""
        config: Any = self.denoiser.config
        own = getattr(pipeline, "default_sample_size", None) or config.get("sample_size")
        factor = pipeline.vae_scale_factor
        rows, columns = own if isinstance(own, list | tuple) else (own or self.family.native_side // factor,) * 2
        limit, multiple = min(self.family.greatest_default, max_side), self.family.side_multiple
        return _whole(columns * factor, limit, multiple), _whole(rows * factor, limit, multiple)


def pipeline_class(family: Family, mode: Mode, *, controlled: bool = False) -> type[Any]:
    """The library's class for a way to draw."""
    found: type[Any] = getattr(diffusers, (family.controls if controlled else family.modes)[mode])
    return found


def pipeline_arguments(family: Family) -> dict[str, inspect.Parameter]:
    """What the pipelines of a family are made of."""
    arguments: dict[str, inspect.Parameter] = {}
    for mode in family.modes:
        arguments |= inspect.signature(pipeline_class(family, mode)).parameters
    return arguments


def _whole(side: int, limit: int, multiple: int) -> int:
    return int(max(multiple, min(side, limit) // multiple * multiple))
