"""The pipelines that this worker runs: their classes and differences, as tables."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import diffusers
import torch

from worker import schedules

TEXT_TO_IMAGE = {
    "StableDiffusionPipeline": diffusers.StableDiffusionPipeline,
    "StableDiffusionImg2ImgPipeline": diffusers.StableDiffusionPipeline,
    "StableDiffusionXLPipeline": diffusers.StableDiffusionXLPipeline,
    "StableDiffusionXLImg2ImgPipeline": diffusers.StableDiffusionXLPipeline,
    "StableDiffusion3Pipeline": diffusers.StableDiffusion3Pipeline,
    "StableDiffusion3Img2ImgPipeline": diffusers.StableDiffusion3Pipeline,
    "FluxPipeline": diffusers.FluxPipeline,
    "FluxImg2ImgPipeline": diffusers.FluxPipeline,
}
"""A folder's pipeline class to the one that draws from text."""

IMAGE_TO_IMAGE = {
    diffusers.StableDiffusionPipeline: diffusers.StableDiffusionImg2ImgPipeline,
    diffusers.StableDiffusionXLPipeline: diffusers.StableDiffusionXLImg2ImgPipeline,
    diffusers.StableDiffusion3Pipeline: diffusers.StableDiffusion3Img2ImgPipeline,
    diffusers.FluxPipeline: diffusers.FluxImg2ImgPipeline,
}

DEFAULT_SIDES = {
    diffusers.StableDiffusionPipeline: 768,
    diffusers.StableDiffusionXLPipeline: 1024,
    diffusers.StableDiffusion3Pipeline: 1024,
    diffusers.FluxPipeline: 1024,
}
"""The greatest side that a family draws by default, in pixels: SD 2's, those of the others."""

FEW_STEPS = 4
"""Steps of a Flux model that was distilled for few of them (its transformer takes no guidance)."""


class Pipelines:
    """A model's components and the pipelines over them. Each run has a scheduler of its own: they carry state."""

    def __init__(self, text_class: type[Any], components: dict[str, Any], settings: dict[str, Any]) -> None:
        self.text_class = text_class
        self.components = components
        self._settings = settings

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
        found = self.components.get("unet") or self.components["transformer"]
        assert isinstance(found, torch.nn.Module)
        return found

    @property
    def is_flux(self) -> bool:
        return self.text_class is diffusers.FluxPipeline

    @property
    def takes_guidance(self) -> bool:
        """Whether guidance changes anything: a Flux distilled for few steps has none."""
        return not self.is_flux or bool(self.components["transformer"].config.guidance_embeds)

    @property
    def side_multiple(self) -> int:
        """What sides must be a multiple of, in pixels: transformers see patches of two latent pixels."""
        return 16 if "transformer" in self.components else 8

    def pipeline(self, *, from_image: bool, scheduler: str) -> Any:
        """A pipeline over the components with a fresh scheduler. Raises Fault INVALID_ARGUMENT."""
        cls = IMAGE_TO_IMAGE[self.text_class] if from_image else self.text_class
        accepted = inspect.signature(cls.__init__).parameters
        given = {
            **self.components,
            **self._settings,
            "scheduler": schedules.named(self.components["scheduler"], scheduler),
        }
        arguments = {name: value for name, value in given.items() if name in accepted}
        pipeline = cls(**arguments)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def default_steps(self, pipeline: Any) -> int:
        """What the pipeline itself takes."""
        if not self.takes_guidance:
            return FEW_STEPS
        return int(inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default)

    def default_sides(self, pipeline: Any, max_side: int) -> tuple[int, int]:
        """Width and height where none are asked for: the model's own, up to its family's and to `max_side`."""
        config: Any = self.denoiser.config
        own = getattr(pipeline, "default_sample_size", None) or config.sample_size
        rows, columns = own if isinstance(own, list | tuple) else (own, own)
        limit, multiple = min(DEFAULT_SIDES[self.text_class], max_side), self.side_multiple
        return (
            _whole(columns * pipeline.vae_scale_factor, limit, multiple),
            _whole(rows * pipeline.vae_scale_factor, limit, multiple),
        )


def _whole(side: int, limit: int, multiple: int) -> int:
    return int(max(multiple, min(side, limit) // multiple * multiple))
