"""A single file's parts in host memory: each built without memory by its configuration, then given the file's tensors.

Decides whether the file has what its parts ask for, and tells a tensor that is missing or of another shape by its own
name. What brings its names to the classes' own is `worker.originals`'s.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import msgspec
import torch

from modelfiles import folders
from modelfiles.allowed import COMPONENTS, WEIGHTED
from modelfiles.complete import lacks
from modelfiles.families import Family
from modelfiles.headers import Tensor, read_header
from modelfiles.jsonfile import JsonObject, incompatible, read_object
from modelfiles.model import Part
from protocol.enums import ComponentType
from protocol.errors import ErrorCode, Fault
from worker import originals, schedules
from worker.configurations import Configuration, configuration_source, own_tokenizers
from worker.devices.base import Build
from worker.filling import chooser, filled
from worker.identity import identity
from worker.job import Job
from worker.parts import DTYPES, Tell, build_part, class_of, make_private, scheme_of, told
from worker.quantization import quantize
from worker.scales import check_scales, is_beside, scale_of, unscaled
from worker.skeleton import CONFIG, SCHEDULER_CONFIG, Held, check_module
from worker.staging import Staging
from worker.stock import Stock


class Single:
    """One load of a single file; `folder` holds its configuration, `weights` is the file, both as they were checked."""

    def __init__(
        self, build: Build, configuration: Configuration, family: Family, staging: Staging, stock: Stock
    ) -> None:
        self._build = build
        self._configuration = configuration
        self._family = family
        self._stock = stock
        self._name = Path(build.file.path).name
        self._folder = Path(staging.folder("configuration", {}))
        for name, path in configuration.reads.items():
            staging.folder(f"configuration/{Path(name).parent}", {Path(name).name: path})
        self._weights = staging.file(build.file.path, "model.safetensors")
        self._header = read_header(Path(self._weights))
        self.index = read_object(self._folder / folders.INDEX)

    def components(self, job: Job, tell: Tell) -> dict[str, Any]:
        """Every part that the configuration names and the file has, checked before any is built. Raises Fault."""
        parts = self._parts()
        self._check_needed(parts)
        modules = {part.name: self._checked(part) for part in parts if part.files}
        components: dict[str, Any] = dict(own_tokenizers(self._configuration))
        stock, reader = self._stock, self._stock.reader
        for part in parts:
            job.check()
            tell("build", reader.bytes)
            began = time.perf_counter()
            if part.files:
                with told(self._name, ErrorCode.MODEL_LOADING_FAILED):
                    component = self._found(part, modules.pop(part.name))
            elif part.name not in components:
                component = build_part(part, str(self._folder / part.name), self._build, stock)
            else:
                component = components[part.name]
            components[part.name] = component
            job.phases["build_ms"] += (time.perf_counter() - began) * 1000
        job.phases["read_ms"] = reader.seconds * 1000
        job.phases["build_ms"] -= job.phases["read_ms"]
        components["scheduler"] = self._stated_scheduler(components["scheduler"], job)
        return components

    def part(self, name: str) -> torch.nn.Module:
        """One part that has weights. Raises Fault."""
        part = next((one for one in self._parts() if one.name == name and one.files), None)
        if part is None:
            raise incompatible(f"{self._name}: {self._configuration.class_name} has no {name}", part=name)
        with told(self._name, ErrorCode.MODEL_LOADING_FAILED):
            return self._found(part, self._checked(part))

    def read_parts(self) -> None:
        """The parts that have weights, each checked and given to the stock. Raises Fault."""
        for part in self._parts():
            if part.files:
                with told(self._name, ErrorCode.MODEL_LOADING_FAILED):
                    self._found(part, self._checked(part))

    def _parts(self) -> list[Part]:
        """The configuration's parts with the file's tensors; those that the file has no tensors of are left out."""
        held = {part.name: part for part in self._build.file.parts}
        parts = []
        for name, pair in self.index.items():
            if not isinstance(pair, list) or (str(pair[0]), str(pair[1])) not in COMPONENTS:
                continue
            kind = COMPONENTS[str(pair[0]), str(pair[1])]
            if kind in WEIGHTED and name in held:
                parts.append(msgspec.structs.replace(held[name], library=str(pair[0]), class_name=str(pair[1])))
            elif kind in (ComponentType.Scheduler, ComponentType.Tokenizer):
                parts.append(Part(name=name, type=kind, path="", library=str(pair[0]), class_name=str(pair[1])))
        return parts

    def _check_needed(self, parts: list[Part]) -> None:
        """Raise Fault MODEL_INCOMPATIBLE for a file without a part that its family cannot draw without."""
        there = {part.name for part in parts}
        missing = [part.name for part in self._family.file_parts if part.name in self._asked() - there]
        if missing:
            kind = self._build.file.type.value
            text = f"{self._name} ({kind}) has no {' and no '.join(missing)}"
            raise incompatible(f"{text}; {self._configuration.class_name} needs it", missing=missing[0])

    def _asked(self) -> set[str]:
        """The parts that must be there: those that the family needs, and those that the configuration names."""
        named = {name for name, pair in self.index.items() if isinstance(pair, list) and pair[0] is not None}
        return set(self._family.needed) | (named - self._family.spare)

    def _checked(self, part: Part) -> torch.nn.Module:
        """The part without memory, held against its tensors. Raises Fault."""
        tensors = self._tensors(part)
        check_scales(part.name, self._owned(part))
        config = self._config(part)
        try:
            module = check_module(part.name, class_of(part), config, Held.of(tensors, exact=False))
            self._compare(part, module, tensors)
        except Fault as fault:
            if fault.code is ErrorCode.MODEL_CORRUPTED:
                raise
            text = f"{fault.info.message}; its weights do not fit {configuration_source(self._build)}"
            code = ErrorCode.MODEL_LOADING_FAILED if self._configuration.is_family else fault.code
            raise Fault(code, text, details=fault.info.details) from None
        return module

    def _compare(self, part: Part, module: torch.nn.Module, tensors: list[Tensor]) -> None:
        """Raise Fault MODEL_CORRUPTED for a missing tensor, MODEL_INCOMPATIBLE for one of another shape."""
        absent = originals.lacking(self._family, part.class_name, module, part.prefixes, tensors)
        if absent:
            raise lacks(self._name, part.name, absent)
        held = {tensor.name: torch.empty(tensor.shape, device="meta") for tensor in tensors}
        found = self._converted(part, module, held)
        for name, asked in module.state_dict(keep_vars=True).items():
            tensor = found.get(name)
            if tensor is not None and tensor.shape != asked.shape:
                text = f"{part.name}: its configuration asks for {name} of {list(asked.shape)}"
                shapes = {"found": list(tensor.shape), "expected": list(asked.shape)}
                raise incompatible(
                    f"{text}, and the file has {list(tensor.shape)}", part=part.name, tensor=name, **shapes
                )

    def _converted(self, part: Part, module: torch.nn.Module, held: originals.Names) -> originals.Names:
        """Raises Fault MODEL_INCOMPATIBLE for names of no known layout."""
        with told(f"{self._name}: its {part.name}"):
            found = originals.converted(self._family, part.class_name, module, part.prefixes, held)
        if found is None:
            first = min(held, default="")
            text = f"the tensors of its {part.name}, first {first[:120]}, have the names of no known layout"
            raise incompatible(f"{self._name}: {text} of {part.class_name}", part=part.name, tensor=first)
        return found

    def _found(self, part: Part, skeleton: torch.nn.Module) -> torch.nn.Module:
        """The part with its tensors, in the precision asked for."""
        cls, config, scheme = class_of(part), self._config(part), scheme_of(self._build, part.name)

        def fill(found: originals.Names) -> torch.nn.Module:
            module = filled(cls, config, skeleton, found, scheme)
            make_private(module, copied=True)
            return module

        def make() -> torch.nn.Module:
            made = filled(cls, config, skeleton, self._read(part, skeleton))
            make_private(made, copied=True)
            return made if scheme is None else quantize(made, scheme, self._stock.reader.check)

        key = identity(cls, config, self._build, [Path(self._weights)], names=part.prefixes)
        return self._stock.module(part.name, key, fill, make)

    def _read(self, part: Part, skeleton: torch.nn.Module) -> originals.Names:
        """The part's tensors by its module's names."""
        cls, wanted = class_of(part), DTYPES[self._build.compute]
        choose, names = chooser(cls, wanted), frozenset(tensor.name for tensor in self._header.tensors)
        scaled = {scale: tensor for tensor in names if (scale := scale_of(tensor, names))}
        raw = frozenset(scaled.values())

        def chosen(name: str, source: torch.dtype) -> torch.dtype:
            return source if name in raw or name in scaled else choose(name, source)

        owned = [tensor for tensor in self._owned(part) if tensor.name in scaled or not is_beside(tensor.name)]
        held = self._stock.reader.read([(Path(self._weights), self._header, owned)], chosen)
        for scale, name in scaled.items():
            if name in held and scale in held:
                held[name] = unscaled(held[name], held.pop(scale)).to(wanted)
        return self._converted(part, skeleton, held)

    def _tensors(self, part: Part) -> list[Tensor]:
        return [tensor for tensor in self._owned(part) if not is_beside(tensor.name)]

    def _owned(self, part: Part) -> list[Tensor]:
        starts = tuple(part.prefixes) or ("",)
        return [tensor for tensor in self._header.tensors if tensor.name.startswith(starts)]

    def _config(self, part: Part) -> JsonObject:
        """The part's configuration; one of the project's own knows only what a family's models have in common."""
        config, file = read_object(self._folder / part.name / CONFIG), self._build.file
        if self._configuration.is_family and part.name == self._family.denoiser.part and file.in_channels:
            config["in_channels"] = file.in_channels
        return config

    def _stated_scheduler(self, own: Any, job: Job) -> Any:
        """The scheduler of the file, as its weights say that they must be drawn."""
        says = self._build.file.says
        if not says.source:
            return own
        schedule = self._folder / "scheduler" / SCHEDULER_CONFIG
        written = None if self._configuration.is_family or not schedule.is_file() else read_object(schedule)
        sigmas = schedules.edm_sigmas(self._weights, self._header) if says.edm else {}
        made, warnings = schedules.stated(own, says, written, sigmas)
        job.warnings += warnings
        return made
