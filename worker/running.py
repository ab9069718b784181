"""A real model: its moves between tiers, and its runs under the flags that are in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch

from modelfiles.model import ModelFile
from protocol.enums import ComponentType, ModelPrecision
from worker import attention, lora, quantization, words
from worker.components import shared
from worker.devices.base import (
    CONTROLNET,
    LORA,
    WORD,
    Applied,
    Build,
    BuiltModel,
    Drawing,
    DrawOrder,
    Made,
    PartBytes,
    Rung,
    Streaming,
)
from worker.devices.torch_device import TorchDevice
from worker.holding import Holding
from worker.job import Job
from worker.lora import LoraWeights
from worker.options import FLASH, OFFLOADING, SLICING, SPLITTING
from worker.parts import DTYPES
from worker.pipelines import Pipelines
from worker.reader import Reader
from worker.run import Run
from worker.saving import save, whole_folder
from worker.streaming import Flow, Streamed
from worker.weights import tensors_of
from worker.words import WordVectors
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
        found = shared(pipelines.components, parts, device.components)
        self.parts = [
            msgspec.structs.replace(part, key=found[part.name].key) if part.name in found else part for part in parts
        ]
        self._holding = Holding(device, found, streams=build.streaming is not Streaming.NONE)
        self._own = {part.name: part.path for part in parts}
        self._loras: dict[str, float] = {}
        self._control = 1.0
        tokenizers = {name: one for name, one in pipelines.components.items() if name.startswith("tokenizer")}
        self._tokenizers = {name: one for name, one in tokenizers.items() if one is not None}
        self._work = _work(pipelines, build.compute)
        self._build, self._streaming = build, build.streaming
        self._types: dict[str, dict[str, torch.dtype]] = {}
        self._note_parts()

    def _note_parts(self) -> None:
        """What follows from the parts as they are."""
        for name, tokenizer in self._tokenizers.items():
            self._pipelines.components[name] = words.extended(tokenizer, self._words)
        if self._streaming is not Streaming.NONE:
            self.streamed_bytes = max((part.most_bytes for part in self._streamed(self._streaming)), default=0)
        self._types = {
            name: {key: tensor.dtype for key, tensor in tensors_of(module).items()}
            for name, module in self._pipelines.named_modules()
        }

    # parts of its own and others

    @property
    def _words(self) -> dict[str, WordVectors]:
        found = self._pipelines.components.items()
        return {name.removeprefix(WORD): one for name, one in found if name.startswith(WORD)}

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

    def read_word(self, word: str, file: ModelFile, job: Job) -> Made:
        made = words.read(word, file, self._pipelines, self._compute, Reader(job.check, lambda _: None))
        size = sum(tensor.nbytes for tensor in made.buffers())
        part = PartBytes(name=WORD + made.word, type=ComponentType.Unknown, path=file.path, bytes=size)
        return Made(part=part, component=made)

    def read_part(self, name: str, file: ModelFile, job: Job) -> Made:
        return self._device.read_part(name, self._build, file, self._pipelines, job)

    def put(self, made: Made, scale: float | None = None) -> PartBytes | None:
        part, one = made.part, made.component
        if isinstance(one, torch.nn.Module):
            component = self._holding.take(part.name, one, part.bytes, part.key)
            one, part = component.module, msgspec.structs.replace(part, key=component.key)
        else:
            self._holding.let_go(part.name)
        old = self._remove(part.name)
        if scale is not None and part.name == CONTROLNET:
            self._control = scale
        elif scale is not None:
            self._loras[part.name.removeprefix(LORA)] = scale
        self._pipelines.components[part.name] = one
        self.parts = [*self.parts, part]
        if part.name in self._tokenizers:
            self._tokenizers[part.name] = one
        self._note_parts()
        return old

    def drop(self, name: str) -> PartBytes | None:
        self._holding.let_go(name)
        old = self._remove(name)
        self._pipelines.components.pop(name, None)
        self._note_parts()
        return old

    def _remove(self, name: str) -> PartBytes | None:
        self._loras.pop(name.removeprefix(LORA), None)
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
        parts = self._streamed(self._streaming)
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

    # moves

    def claim(self) -> None:
        self._holding.claim()

    def disclaim(self) -> None:
        self._holding.disclaim()

    def promote(self, job: Job | None) -> None:
        self._holding.promote(job)

    def copy(self, *, evict: bool) -> Generator[None, None, bool]:
        return self._holding.copy(evict=evict)

    def keep_copy(self) -> bool:
        return self._holding.keep_copy()

    def demote(self) -> None:
        self._holding.demote()

    def step_aside(self) -> None:
        self._holding.step_aside()

    def release(self) -> int:
        freed = self._holding.release()
        self._pipelines.components.clear()
        return freed

    def save(self, place: Path, metadata: Mapping[str, str], job: Job) -> None:
        class_name = self._build.file.class_name or next(iter(self._pipelines.family.modes.values()))
        with whole_folder(place) as folder:
            save(self._pipelines, class_name, folder, metadata, job.check)

    # runs

    def mend(self) -> None:
        """Back onto the device, where a run left it aside; and in its own types: a VAE that SDXL decodes in Float32
        stays so where the decoding fails."""
        if self._holding.is_aside and self._streaming is Streaming.NONE:
            self._holding.place()
        for name, module in self._pipelines.named_modules():
            for key, tensor in tensors_of(module).items():
                wanted = self._types.get(name, {}).get(key, tensor.dtype)
                if tensor.dtype is not wanted:
                    tensor.data = tensor.data.to(wanted)

    @property
    def rungs(self) -> frozenset[Rung]:  # type: ignore[override]
        tiled = {Rung.TILING} if hasattr(self._pipelines.components["vae"], "use_tiling") else set()
        more = {Streaming.NONE: {Rung.OFFLOADING, Rung.SPLITTING}, Streaming.PARTS: {Rung.SPLITTING}}
        return frozenset({Rung.SLICING} | tiled | more.get(self._streaming, set()))

    def draw(self, order: DrawOrder, job: Job) -> Drawing:
        with ExitStack() as stack:
            streaming = self._streaming_of(order)
            if streaming is not self._streaming and self._holding.placed:
                stack.enter_context(self._waiting_aside())
            streamed = self._streamed(streaming, absent=True) if streaming is not Streaming.NONE else []
            run = Run(self._device, self._pipelines, order, job, streams=bool(streamed), control=self._control)
            shape = Shape.of(order)
            known = self._work.measured(shape) if not (order.rung or order.watched) else None
            coming = max((part.most_bytes for part in streamed), default=0)
            there = self.bytes if streaming is Streaming.NONE else 0
            peak = None if known is None else there + coming + known
            meter = stack.enter_context(self._device.watch(self._pipelines, there, order.limit_bytes, peak, coming))
            self._as_asked(order, stack)
            stack.enter_context(Flow(self._device, streamed))
            images = run.images()
        if meter.peak_bytes is not None and not order.rung:
            self._work.note(shape, meter.peak_bytes - there - coming)
        return run.drawing(images, meter.peak_bytes)

    def _streaming_of(self, order: DrawOrder) -> Streaming:
        if Rung.SPLITTING in order.rung:
            return Streaming.BLOCKS
        return Streaming.PARTS if Rung.OFFLOADING in order.rung else self._streaming

    @contextmanager
    def _waiting_aside(self) -> Iterator[None]:
        """A run whose model lies on the device and is streamed all the same. Raises the device's `out_of_memory`."""
        self.step_aside()
        try:
            yield
        finally:
            self._holding.place()

    def _streamed(self, streaming: Streaming, *, absent: bool = False) -> list[Streamed]:
        """Its parts as they are streamed; `absent`: those that the device has not by another model."""
        held = [one for one in self._holding.all if not isinstance(one.module, LoraWeights | WordVectors)]
        kept = [one.module for one in held if not (absent and one.placed)]
        return [Streamed(module, split=streaming is Streaming.BLOCKS) for module in kept]

    def _adapted(self, order: DrawOrder) -> AbstractContextManager[None]:
        """A run with the adapters that the order names, else with all."""
        active = self._loras.items() if order.loras is None else order.loras
        return lora.added(self._pipelines, [(self._pipelines.components[LORA + name], scale) for name, scale in active])

    def _as_asked(self, order: DrawOrder, stack: ExitStack) -> None:
        """A run under the flags of the configuration in force, with the adapters and the rung of the order."""
        stack.enter_context(self._adapted(order))
        stack.enter_context(words.known(self._pipelines, self._words))
        if SLICING in self._flags or Rung.SLICING in order.rung:
            stack.enter_context(attention.Sliced())
        if FLASH in self._flags:
            stack.enter_context(attention.flash())
        if Rung.TILING in order.rung:
            stack.enter_context(tiled(self._pipelines.components["vae"]))

    def working_bytes(self, order: DrawOrder) -> int:
        return self._work.expected(Shape.of(order)) + (self.streamed_bytes or 0)


def _work(pipelines: Pipelines, precision: ModelPrecision) -> Work:
    family, config = pipelines.family, getattr(pipelines.components.get("vae"), "config", {})
    denoiser: Any = pipelines.denoiser.config
    factor, own = family.latent_factor, denoiser.get("sample_size")
    side = own * factor if isinstance(own, int) and own else family.native_side
    each = bytes_per_pixel(family.working_bytes_per_pixel, DTYPES[precision].itemsize, config)
    return Work(each, min(side, family.greatest_default))


@contextmanager
def tiled(vae: Any) -> Iterator[None]:
    """While it lasts, a VAE computes tile by tile and picture by picture."""
    before = vae.use_tiling, vae.use_slicing
    vae.use_tiling = vae.use_slicing = True
    try:
        yield
    finally:
        vae.use_tiling, vae.use_slicing = before
