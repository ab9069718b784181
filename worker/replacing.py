"""A part of another model, or one by itself, in the place of a model's own: read, and held against its new neighbours.

Decides whether it fits: its class by the family's slots, its widths by those of the parts beside it, the channels of
its latents. The model is not touched here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import torch
import transformers

from modelfiles.fit import check_fit
from modelfiles.jsonfile import JsonObject, incompatible
from modelfiles.model import Kind, ModelFile, Part
from modelfiles.paths import Roots
from modelfiles.roles import check_slot
from protocol.checks import unsupported
from worker import precision
from worker.configurations import PARTS_ALONE, Configuration, configuration_of
from worker.devices.base import CONTROLNET, Build, Made, PartBytes
from worker.parts import build_part, tensor_bytes
from worker.pipelines import Pipelines
from worker.singles import Single
from worker.staging import Staging
from worker.stock import Stock

LATENTS = ("scaling_factor", "shift_factor")
"""Keys of a VAE's configuration that tell one space of latents from another, beside their channels."""

FOLLOWED = ("in_channels", "cross_attention_dim", "block_out_channels", "layers_per_block", "addition_embed_type")
"""Keys in which a ControlNet is as the denoiser whose first half it is a copy of."""

GIVEN = ("in_channels", "addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
"""Keys of a denoiser's configuration that say what a pipeline has to give it."""


class Sources:
    """Where a part may come from: `own` is how the model that it is for was built, `source` the other file."""

    def __init__(self, own: Build, source: ModelFile, pipelines: Pipelines, roots: Roots) -> None:
        self._pipelines = pipelines
        precision.refuse_packed(source)
        alone = source.kind is Kind.SINGLE and source.type in PARTS_ALONE
        config_path = own.config_path if source.path == own.file.path else ""
        self.build = msgspec.structs.replace(own, file=source, config_path=config_path, anew=False)
        self.configuration = _configuration(own, self.build, roots, alone=alone)
        watched = self.configuration.watched if self.configuration is not None else ()
        self.watched = [*source.fingerprints, *watched]

    def read(self, name: str, staging: Staging, stock: Stock) -> Made:
        """The part in host memory. Raises Fault."""
        if name == CONTROLNET:
            self._check_control()
        part = _part(name, self.build.file)
        if self.configuration is not None:
            build = self.build
            if build.file.type in PARTS_ALONE:
                build = msgspec.structs.replace(build, file=msgspec.structs.replace(build.file, parts=[part]))
            made: Any = Single(build, self.configuration, self._pipelines.family, staging, stock).part(name)
        else:
            check_slot(name, (part.library, part.class_name))
            made = build_part(part, staging.folder(part.name, part.reads), self.build, stock)
        staging.verify()
        check_serves(self._pipelines, name, made)
        size = _bytes(made) if isinstance(made, torch.nn.Module) else 0
        known = PartBytes(name=name, type=part.type, path=part.path, bytes=size, key=stock.keys.get(name, ""))
        return Made(part=known, component=made)

    def _check_control(self) -> None:
        """Raise Fault for a ControlNet that nothing here can draw with."""
        family, file = self._pipelines.family, self.build.file
        if not family.has_control_nets:
            raise unsupported("component", f"no pipeline for ControlNets of {family.name} is part of this worker")
        if file.kind is Kind.SINGLE:
            text = "a ControlNet in one file has no configuration: give a diffusers folder"
            raise unsupported("component", text)


def check_serves(pipelines: Pipelines, name: str, made: Any) -> None:
    """Raise Fault MODEL_INCOMPATIBLE where a part does not fit the others of a model."""
    parts = {part: one for part, one in pipelines.components.items() if one is not None} | {name: made}
    classes = {part: (_library(one), type(one).__name__) for part, one in parts.items()}
    configs = {part: _config(one) for part, one in parts.items()}
    check_fit(pipelines.family, classes, configs)
    denoiser = pipelines.family.denoiser.part
    if CONTROLNET in configs:
        _check_follows(configs[denoiser], configs[CONTROLNET])
    for part, keys in (("vae", (pipelines.family.latent_key, *LATENTS)), (denoiser, GIVEN)):
        own, other = _config(pipelines.components[part]), configs[part]
        for key in keys:
            if own.get(key) != other.get(key):
                text = f"{name}: its {key} is {other.get(key)}, and this model's is {own.get(key)}"
                raise incompatible(text, part=name, key=key, found=other.get(key), expected=own.get(key))


def _check_follows(denoiser: JsonObject, control: JsonObject) -> None:
    """Raise Fault MODEL_INCOMPATIBLE for a ControlNet whose outputs are not of the denoiser's widths."""
    for key in FOLLOWED:
        own, other = denoiser.get(key), control.get(key)
        if _plain(own) != _plain(other):
            text = f"{CONTROLNET}: its {key} is {other}, and this model's is {own}"
            raise incompatible(text, part=CONTROLNET, key=key, found=str(other), expected=str(own))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _configuration(own: Build, build: Build, roots: Roots, *, alone: bool) -> Configuration | None:
    """What a single file's part is built by: its own configuration; of a part by itself that of the model it is for."""
    if not alone:
        return configuration_of(build, roots)
    if own.file.kind is Kind.SINGLE:
        return configuration_of(own, roots)
    return configuration_of(msgspec.structs.replace(build, config_path=own.file.path), roots)


def _part(name: str, file: ModelFile) -> Part:
    """The part of a file by its name; one by itself whatever it is called. Raises Fault MODEL_INCOMPATIBLE."""
    alone = len(file.parts) == 1 and not file.family
    found = file.parts[0] if alone else next((part for part in file.parts if part.name == name), None)
    if found is None:
        held = ", ".join(part.name for part in file.parts) or "no parts"
        raise incompatible(f"{Path(file.path).name} has no {name}: it has {held}", part=name)
    return msgspec.structs.replace(found, name=name)


def _config(one: Any) -> JsonObject:
    config: Any = getattr(one, "config", None)
    return config.to_dict() if hasattr(config, "to_dict") else dict(config or {})


def _library(one: Any) -> str:
    own = isinstance(one, transformers.PreTrainedModel | transformers.PreTrainedTokenizerBase)
    return "transformers" if own else "diffusers"


def _bytes(module: torch.nn.Module) -> int:
    return sum(tensor_bytes(tensor) for tensor in (*module.parameters(), *module.buffers()))
