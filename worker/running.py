"""A real model: its moves between tiers, and its runs under the flags that are in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import msgspec
import torch

from modelfiles.model import ModelFile
from protocol.enums import ComponentType, ModelPrecision
from ramtier.blocks import Block
from worker import attention, lora, quantization
from worker.components import Component, shared
from worker.copying import copied
from worker.devices.base import (
    LORA,
    Applied,
    Build,
    BuiltModel,
    Drawing,
    DrawOrder,
    LostError,
    Made,
    PartBytes,
    Streaming,
)
from worker.devices.torch_device import TorchDevice
from worker.job import Job
from worker.lora import LoraWeights
from worker.options import FLASH, OFFLOADING, SLICING, SPLITTING
from worker.parts import DTYPES
from worker.pipelines import Pipelines
from worker.reader import Reader
from worker.run import Run
from worker.streaming import Flow, Streamed
from worker.weights import tensors_of
from worker.work import Shape, Work, bytes_per_pixel


class TorchModel(BuiltModel):
    """Components in host memory or on the device. A peak is measured once for each shape of run."""

    def __init__(
        self,
        device: TorchDevice,
        pipelines: Pipelines,
        parts: list[PartBytes],
        build: Build,
    ) -> None:
        self.precision = build.precision
        self._compute = DTYPES[build.compute]
        self._flags: tuple[str, ...] = ()
        self._device = device
        self._pipelines = pipelines
        self._found = found = shared(pipelines.components, parts, device.components)
        self.parts = [
            msgspec.structs.replace(part, key=found[part.name].key) if part.name in found else part for part in parts
        ]
        self._components = list(dict.fromkeys(found.values()))
        self._own = {part.name: part.path for part in parts}
        self._loras: dict[str, float] = {}
        self._placed: list[Component] = []
        self._shared: list[Component] = []
        self._waiting: list[Component] = []
        self._is_aside = False
        self._claims = ExitStack()
        self._blocks: dict[Component, Block] = {}
        self._work = _work(pipelines, build.compute)
        self._build, self._streaming = build, build.streaming
        self._types: dict[str, dict[str, torch.dtype]] = {}
        self._note_parts()

    def _note_parts(self) -> None:
        """What follows from the parts as they are."""
        if self._streaming is not Streaming.NONE:
            self.streamed_bytes = max((part.most_bytes for part in self._streamed()), default=0)
        self._types = {
            name: {key: tensor.dtype for key, tensor in tensors_of(module).items()}
            for name, module in self._pipelines.named_modules()
        }

    # parts of its own and others

    @property
    def loras(self) -> dict[str, float]:
        return dict(self._loras)

    @property
    def replaced(self) -> list[str]:
        return [part.name for part in self.parts if self._own.get(part.name) != part.path]

    def read_lora(self, name: str, file: ModelFile, job: Job) -> Made:
        made = lora.read(file, self._pipelines, self._compute, Reader(job.check, lambda _: None))
        size = sum(tensor.nbytes for tensor in made.buffers())
        part = PartBytes(name=LORA + name, type=ComponentType.LoRA, path=file.path, bytes=size)
        return Made(part=part, component=made)

    def read_part(self, name: str, file: ModelFile, job: Job) -> Made:
        return self._device.read_part(name, self._build, file, self._pipelines, job)

    def put(self, made: Made, scale: float | None = None) -> PartBytes | None:
        part, one = made.part, made.component
        component = None
        if isinstance(one, torch.nn.Module):
            component = self._device.components.hold(one, part.bytes, part.key)
            try:
                self._join(component)
            except BaseException:
                self._device.components.let_go(component)
                raise
            one, part = component.module, msgspec.structs.replace(part, key=component.key)
        old = self._without(part.name, component)
        if component is not None:
            self._found[part.name] = component
        if scale is not None:
            self._loras[part.name.removeprefix(LORA)] = scale
        self._pipelines.components[part.name] = one
        self.parts = [*self.parts, part]
        self._note_parts()
        return old

    def drop(self, name: str) -> PartBytes | None:
        old = self._without(name)
        self._pipelines.components.pop(name, None)
        self._note_parts()
        return old

    def _join(self, component: Component) -> None:
        """One component more, wherever this model's are. Raises the device's `out_of_memory`."""
        if component in self._components:
            self._device.components.let_go(component)
            return
        if self._placed:
            if not component.placed:
                self._device.place([component])
            component.placed += 1
            self._placed.append(component)
        elif self._is_aside:
            component.aside += 1
        self._components.append(component)

    def _without(self, name: str, coming: Component | None = None) -> PartBytes | None:
        """The part leaves; its component too, where it stands nowhere else in the model, and is not the one to come."""
        component = self._found.pop(name, None)
        self._loras.pop(name.removeprefix(LORA), None)
        if component is not None and component is not coming and component not in self._found.values():
            self._components.remove(component)
            if component in self._placed:
                self._placed.remove(component)
                self._displace(self._take_off([component]))
            elif self._is_aside:
                component.aside -= 1
            self._device.components.let_go(component)
            if component.models:
                component.strip()
        old = next((part for part in self.parts if part.name == name), None)
        self.parts = [part for part in self.parts if part.name != name]
        return old

    def apply(self, flags: Sequence[str]) -> dict[str, Applied]:
        self._flags = tuple(flags)
        found = attention.layers(self._pipelines.modules())
        applied: dict[str, Applied] = {}
        for flag in flags:
            if flag == SLICING:
                applied[flag] = Applied(evidence={"attention_layers": len(found), "slices": attention.SLICES})
            elif flag == FLASH:
                applied[flag] = self._flash(found)
            elif flag in (OFFLOADING, SPLITTING):
                applied[flag] = self._streams()
        return applied

    def _streams(self) -> Applied:
        parts = self._streamed()
        evidence = {
            "bytes_before": self.bytes,
            "bytes_at_rest": 0,
            "bytes_running": self.streamed_bytes,
            "parts": len(parts),
            "blocks": sum(len(part.blocks) for part in parts),
        }
        return Applied(evidence=evidence)

    def _flash(self, layers: Sequence[torch.nn.Module]) -> Applied:
        """Whether the flash kernel runs here for heads as they are; of other widths some, and others not."""
        widths = sorted({attention.head_width(layer) for layer in layers})
        place, dtype = self._device.torch_device, self._compute
        kernels = {width: attention.flash_kernel(place, dtype, width) for width in widths}
        count = sum(bool(kernels[attention.head_width(layer)]) for layer in layers)
        if not count:
            kind = str(dtype).removeprefix("torch.")
            return Applied(reason=f"torch has no flash kernel here for {kind} and heads of {widths} values")
        kernel = next(name for name in kernels.values() if name)
        return Applied(evidence={"attention_layers": len(layers), "with_kernel": count, "kernel": kernel})

    def layers_by_type(self) -> dict[str, int]:
        found: Counter[str] = Counter()
        for module in self._pipelines.modules():
            found.update(quantization.layers_by_type(module))
        return dict(found)

    def claim(self) -> None:
        wanted = [one for one in self._absent() if one.empty]
        blocks = {one: self._claims.enter_context(self._device.ram.lent(one.key)) for one in wanted}
        if None in blocks.values():
            self._claims.close()
            raise LostError(f"{sum(block is None for block in blocks.values())} parts have left the RAM tier")
        self._blocks = {one: block for one, block in blocks.items() if block is not None}
        streams = self._streaming is not Streaming.NONE
        self._shared = [one for one in self._absent() if one.placed and not streams]
        self._waiting = [one for one in self._absent() if not one.empty and (streams or not one.placed)]
        for component in self._shared:
            component.placed += 1
        for component in self._waiting:
            component.aside += 1

    def disclaim(self) -> None:
        self._claims.close()
        self._blocks.clear()
        for component in self._waiting:
            component.aside -= 1
        self._waiting = []
        # Where no promotion followed, whoever else had them on the device may have left meanwhile.
        gone, self._shared = self._take_off(self._shared), []
        self._displace(gone)
        for component in gone:
            component.strip()

    def promote(self, job: Job | None) -> None:
        absent = self._absent()
        streams = self._streaming is not Streaming.NONE
        coming = [one for one in absent if one.empty or not (one.placed or streams)]
        reader = Reader(job.check if job is not None else _unwatched, lambda _: None)
        filled = []
        try:
            for component in coming:
                if component.empty:
                    filled.append(component)
                    component.fill(self._blocks[component], reader)
            if not streams:
                self._device.place(coming)
        except BaseException:
            for component in filled:
                component.strip()
            raise
        if streams:
            self._stand_aside()
            return
        for component in absent:
            component.placed += 1
        self._placed += absent
        self._come_back()

    def copy(self, *, evict: bool) -> Generator[None, None, bool]:
        return copied(self._components, self._device.ram, evict=evict)

    def keep_copy(self) -> bool:
        return self._device.ram.hold([one.key for one in self._components])

    def demote(self) -> None:
        self._come_back()
        self._displace(self._leave())
        for component in self._components:
            component.strip()

    def step_aside(self) -> None:
        self._device.displace(self._leave(), keep=True)
        self._stand_aside()

    def _stand_aside(self) -> None:
        """Its tensors are needed in host memory."""
        for component in self._components if not self._is_aside else ():
            component.aside += 1
        self._is_aside = True

    def _displace(self, gone: Sequence[Component]) -> None:
        """Off the device; into host memory what another model needs there."""
        if gone:
            self._device.displace([one for one in gone if one.aside], keep=True)
            self._device.displace([one for one in gone if not one.aside], keep=False)

    def release(self) -> int:
        self._come_back()
        self._displace(self._leave())
        freed = 0
        for component in self._components:
            freed += self._device.components.let_go(component)
            if component.models:
                component.strip()
        self._components.clear()
        self._pipelines.components.clear()
        return freed

    def _come_back(self) -> None:
        """It does not stand aside any more."""
        for component in self._components if self._is_aside else ():
            component.aside -= 1
        self._is_aside = False

    def _absent(self) -> list[Component]:
        return [one for one in self._components if one not in self._placed]

    def _leave(self) -> list[Component]:
        """This model is not on the device any more: its components that no other model has there."""
        gone = self._take_off(self._placed)
        self._placed = []
        return gone

    def _take_off(self, components: Sequence[Component]) -> list[Component]:
        for component in components:
            component.placed -= 1
        return [one for one in components if not one.placed]

    def mend(self) -> None:
        """A VAE that SDXL decodes in Float32 stays so where the decoding fails: the next run would fail on types."""
        for name, module in self._pipelines.named_modules():
            for key, tensor in tensors_of(module).items():
                wanted = self._types.get(name, {}).get(key, tensor.dtype)
                if tensor.dtype is not wanted:
                    tensor.data = tensor.data.to(wanted)

    def draw(self, order: DrawOrder, job: Job) -> Drawing:
        streamed = self._streamed(absent=True) if self._streaming is not Streaming.NONE else []
        run = Run(self._device, self._pipelines, order, job, streams=bool(streamed))
        shape = Shape.of(order)
        known = self._work.measured(shape)
        there, coming = (self.bytes, 0) if self.streamed_bytes is None else (0, self.streamed_bytes)
        peak = None if known is None else there + coming + known
        watched = self._device.watch(self._pipelines, there, order.limit_bytes, peak, coming)
        with watched as meter, self._as_asked(), self._adapted(order), Flow(self._device, streamed):
            images = run.images()
        if meter.peak_bytes is not None:
            self._work.note(shape, meter.peak_bytes - there - coming)
        return run.drawing(images, meter.peak_bytes)

    def _streamed(self, *, absent: bool = False) -> list[Streamed]:
        """Its parts as they are streamed; `absent`: those that the device has not by another model."""
        held = [one for one in self._components if not isinstance(one.module, LoraWeights)]
        kept = [one.module for one in held if not (absent and one.placed)]
        return [Streamed(module, split=self._streaming is Streaming.BLOCKS) for module in kept]

    def _adapted(self, order: DrawOrder) -> AbstractContextManager[None]:
        """A run with the adapters that the order names, else with all."""
        active = self._loras.items() if order.loras is None else order.loras
        return lora.added(self._pipelines, [(self._pipelines.components[LORA + name], scale) for name, scale in active])

    @contextmanager
    def _as_asked(self) -> Iterator[None]:
        """A run under the flags of the configuration in force."""
        with ExitStack() as stack:
            if SLICING in self._flags:
                stack.enter_context(attention.Sliced())
            if FLASH in self._flags:
                stack.enter_context(attention.flash())
            yield

    def working_bytes(self, order: DrawOrder) -> int:
        return self._work.expected(Shape.of(order)) + (self.streamed_bytes or 0)


def _unwatched() -> None:
    """Nobody cancels."""


def _work(pipelines: Pipelines, precision: ModelPrecision) -> Work:
    family, config = pipelines.family, getattr(pipelines.components.get("vae"), "config", {})
    denoiser: Any = pipelines.denoiser.config
    factor, own = family.latent_factor, denoiser.get("sample_size")
    side = own * factor if isinstance(own, int) and own else family.native_side
    each = bytes_per_pixel(family.working_bytes_per_pixel, DTYPES[precision].itemsize, config)
    return Work(each, min(side, family.greatest_default))
