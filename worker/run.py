"""A run of a pipeline: its arguments, timed, stoppable between steps, and what came of it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from PIL import Image

from protocol.drawing import Mode
from protocol.errors import ErrorCode, Fault, invalid
from settings.logs import Logger
from worker import pictures
from worker.devices.base import Drawing, DrawOrder, Raster
from worker.devices.torch_device import TorchDevice
from worker.job import Job
from worker.pipelines import Pipelines
from worker.prompts import Prompts

DEFAULT_STRENGTH = 0.8
log = Logger()


def _begun(order: DrawOrder) -> pictures.Begun | None:
    """The picture that an order begins from. Raises Fault INVALID_ARGUMENT."""
    if order.source is None:
        return None
    return pictures.Begun(order.source, order.mask, order.max_side, order.fields)


def _pixels(image: Image.Image) -> torch.Tensor:
    """[channels, height, width], 0-1, Float32."""
    channels = len(image.getbands())
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return flat.reshape(image.height, image.width, channels).permute(2, 0, 1).float() / 255


class Run:
    """One call of a pipeline: arguments, the clock of its phases, the step callback."""

    def __init__(
        self, device: TorchDevice, pipelines: Pipelines, order: DrawOrder, job: Job, *, streams: bool, control: float
    ) -> None:
        self._device = device
        self._pipelines = pipelines
        self._order = order
        self._job = job
        self._mode = Mode.TEXT if order.source is None else Mode.IMAGE if order.mask is None else Mode.INPAINT
        self._warnings: list[str] = []
        self._blackened: list[bool] | None = None
        with self._told():
            place = device.torch_device if streams else None
            controlled = order.control is not None
            self._pipeline = pipelines.pipeline(self._mode, order.scheduler, place, controlled=controlled)
        steps = order.steps or pipelines.default_steps(self._pipeline)
        strength = self._own_strength() if order.strength is None else order.strength
        self._requested_steps = steps
        self._steps = steps if order.source is None else min(int(steps * strength), steps)
        self._strength = strength
        self._given = None if order.source is None else _begun(order)
        self._control = control
        self._followed = None
        if order.control is not None:
            self._followed = pictures.Source(order.control, order.max_side, order.control_field)
        self._steps_done = 0
        self._latents: torch.Tensor | None = None
        self._began = self._denoising = self._decoding = self._ended = 0.0
        self._check()

    def images(self) -> torch.Tensor:
        """[images, 3, height, width], 0-1, Float32 in host memory. Raises Fault INFERENCE_FAILED."""
        hook = self._pipelines.denoiser.register_forward_pre_hook(self._first_step)
        self._began = time.perf_counter()
        try:
            with torch.no_grad(), self._told():
                output = self._pipeline(**self._arguments())
        finally:
            hook.remove()
        self._device.synchronize()
        self._ended = time.perf_counter()
        images: torch.Tensor = output.images.to("cpu", torch.float32)
        self._note_checker(getattr(output, "nsfw_content_detected", None))
        images = self._kept(images)
        if not torch.isfinite(images).all():
            text = "the model drew values that are not finite: another precision may help"
            raise Fault(ErrorCode.INFERENCE_FAILED, text)
        return images

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Whatever a library raises as INFERENCE_FAILED. What it says may show paths and code: the log has it."""
        try:
            yield
        except (Fault, MemoryError, self._device.out_of_memory):
            raise
        except Exception as error:
            log.exception("a pipeline failed", pipeline=self._pipelines.family.modes[self._mode])
            text = f"the model cannot draw this: its pipeline failed ({type(error).__name__})"
            raise Fault(ErrorCode.INFERENCE_FAILED, text) from error

    def _own_strength(self) -> float:
        """What is drawn with where none is asked for: within a mask, what the pipeline itself takes."""
        if self._mode is not Mode.INPAINT:
            return DEFAULT_STRENGTH
        return float(inspect.signature(self._pipeline.__call__).parameters["strength"].default)

    def _kept(self, images: torch.Tensor) -> torch.Tensor:
        """The images with what their mask leaves alone as it was, to the pixel; blackened ones as they are."""
        mask = self._given.mask if self._given is not None else None
        if self._given is None or mask is None:
            return images
        before, painted = _pixels(self._given.picture), _pixels(mask)
        blackened = self._blackened or [False] * len(images)
        return torch.stack(
            [
                image if black else before + painted * (image - before)
                for image, black in zip(images, blackened, strict=True)
            ]
        )

    def _note_checker(self, detected: list[bool] | None) -> None:
        self._blackened = None if detected is None else [bool(one) for one in detected]
        count = sum(self._blackened or ())
        if count:
            self._warnings.append(f"the model's safety checker blackened {count} of {len(self._order.seeds)} images")

    def drawing(self, images: torch.Tensor, peak_bytes: int | None) -> Drawing:
        """What the run made and measured."""
        pixels = (images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
        count, height, width, _ = pixels.shape
        return Drawing(
            images=[
                Raster(width=width, height=height, rgb=pixels[index].contiguous().numpy().tobytes())
                for index in range(count)
            ],
            steps_done=self._steps_done,
            encode_ms=(self._denoising - self._began) * 1000,
            denoise_ms=(self._decoding - self._denoising) * 1000,
            decode_ms=(self._ended - self._decoding) * 1000,
            peak_bytes=peak_bytes,
            blackened=self._blackened,
            latents=None if self._latents is None else self._latents.detach().to("cpu", torch.float32).numpy(),
            warnings=self._warnings,
        )

    def _check(self) -> None:
        """Raise INVALID_ARGUMENT for what this model cannot draw."""
        multiple = self._pipelines.family.side_multiple
        for field, side in (("width", self._order.width), ("height", self._order.height)):
            if side is not None and side % multiple:
                raise invalid(field, side, f"a multiple of {multiple} for this model")
        if self._steps < 1:
            text = f"one that leaves at least one of {self._requested_steps} steps"
            raise invalid("strength", self._strength, text)

    def _arguments(self) -> dict[str, Any]:
        order = self._order
        arguments: dict[str, Any] = {
            "prompt": order.prompt,
            "num_inference_steps": self._requested_steps,
            "num_images_per_prompt": len(order.seeds),
            # On the cpu, whatever the device: the same seed draws the same noise everywhere.
            "generator": [torch.Generator("cpu").manual_seed(seed) for seed in order.seeds],
            "output_type": "pt",
            "callback_on_step_end": self._step,
        }
        if order.guidance_scale is not None:
            if self._pipelines.takes_guidance:
                arguments[self._pipelines.family.guidance.argument] = order.guidance_scale
            else:
                self._warnings.append("guidance_scale has no effect: this model was distilled for few steps")
        elif self._pipelines.default_guidance is not None:
            arguments[self._pipelines.family.guidance.argument] = self._pipelines.default_guidance
        guidance, negative = self._pipelines.family.guidance, order.negative_prompt
        if negative and not guidance.negative:
            name = self._pipelines.family.name
            self._warnings.append(f"negative_prompt has no effect: {name} takes its guidance as an input")
        elif negative or guidance.empty_negative is not None:
            arguments["negative_prompt"] = negative or guidance.empty_negative
        return arguments | self._embedded(arguments.get("negative_prompt")) | self._picture_arguments()

    def _embedded(self, negative: str | None) -> dict[str, Any]:
        """What stands for prompts that are more than the pipeline makes of them; a warning for what is cut."""
        prompts = Prompts(self._pipelines, self._order.prompt, negative, self._device.torch_device, self._pipeline)
        self._warnings += prompts.cuts()
        return prompts.embedded() if prompts.need_more else {}

    def _picture_arguments(self) -> dict[str, Any]:
        order = self._order
        if self._given is None:
            width, height = self._pipelines.default_sides(self._pipeline, order.max_side)
            sides = (order.width or width, order.height or height)
            return {"width": sides[0], "height": sides[1], **self._control_arguments("image", sides)}
        self._given.decode(order.width, order.height, self._pipelines.family.side_multiple)
        image, mask = self._given.picture, self._given.mask
        arguments: dict[str, Any] = {"image": image, "strength": self._strength}
        if mask is not None:
            arguments["mask_image"] = mask
            if mask.getextrema() == (0, 0):
                self._warnings.append("the mask is black everywhere: nothing is painted")
        if "height" in inspect.signature(self._pipeline.__call__).parameters:
            arguments |= {"width": image.width, "height": image.height}
        return arguments | self._control_arguments("control_image", image.size)

    def _control_arguments(self, name: str, sides: tuple[int, int]) -> dict[str, Any]:
        """The picture that the ControlNet follows, at the size of the one to be drawn."""
        if self._followed is None:
            return {}
        followed = self._followed.decode(*sides, self._pipelines.family.side_multiple)
        return {name: followed, "controlnet_conditioning_scale": self._control}

    def _first_step(self, *_: object) -> None:
        if not self._denoising:
            self._device.synchronize()
            self._denoising = time.perf_counter()

    def _step(self, pipeline: Any, index: int, _: object, tensors: dict[str, Any]) -> dict[str, Any]:
        """Called by the pipeline after each evaluation; schedulers may take more of them than steps."""
        self._job.check()
        self._device.synchronize()
        self._device.glance()
        self._latents = tensors.get("latents") if self._order.latents else None
        self._decoding = time.perf_counter()
        evaluations = max(int(pipeline.num_timesteps), self._steps)
        self._steps_done = (index + 1) * self._steps // evaluations
        mean_ms = (self._decoding - self._denoising) * 1000 / (index + 1)
        self._job.step(self._steps_done, self._steps, mean_ms * (evaluations - index - 1))
        return tensors
