"""A model that is loaded, written as a diffusers folder: its parts as they are now, whole or not at all.

Decides what lies in such a folder. Weights in fewer than 16 bits are written in the type that they are computed in,
with what quantizing made of them: any program reads them so. The folder is made beside its place under a name that no
scan takes for a model, and put there once everything is on disk.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import save_file

from modelfiles import folders
from modelfiles.allowed import COMPONENTS
from worker.pipelines import Pipelines, pipeline_arguments
from worker.quantization import Quantized
from worker.skeleton import CONFIG

DIFFUSERS_WEIGHTS, TRANSFORMERS_WEIGHTS = "diffusion_pytorch_model.safetensors", "model.safetensors"

UNFINISHED = ".part"
"""Ends the name of a folder that is being written; the writer's process id stands before it."""


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to write into, which is at `place` once that is done, and gone where it was not. Raises OSError."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(place.parent)
    made = place.parent / f".{place.name}.{os.getpid()}{UNFINISHED}"
    made.mkdir()
    try:
        yield made
        for path in sorted(made.rglob("*")):
            _sync(path)
        _sync(made)
        # An empty folder in the way is replaced by a rename; whatever else is there, it is not.
        made.rename(place)
        _sync(place.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _clear_leftovers(folder: Path) -> None:
    """Remove what workers wrote that were killed in the middle of it."""
    for left in folder.glob(f".*{UNFINISHED}"):
        writer = left.name.removesuffix(UNFINISHED).rpartition(".")[2]
        if writer == str(os.getpid()) or not Path("/proc", writer).exists():
            shutil.rmtree(left, ignore_errors=True)


def save(
    pipelines: Pipelines, class_name: str, folder: Path, metadata: Mapping[str, str], check: Callable[[], None]
) -> None:
    """Every part of a pipeline of this class into an empty folder; `check` is asked between them.

    Adapters, words and ControlNets are no part of it. Raises OSError, and what `check` raises.
    """
    accepted = pipeline_arguments(pipelines.family)
    index: dict[str, Any] = {
        "_class_name": class_name,
        "_diffusers_version": diffusers.__version__,
        **pipelines.settings,
    }
    for name, component in pipelines.components.items():
        if component is None and name in accepted:
            index[name] = [None, None]
            continue
        known = class_of(component)
        if known is None or name not in accepted:
            continue
        check()
        index[name] = list(known)
        part = folder / name
        part.mkdir()
        if isinstance(component, torch.nn.Module):
            _save_module(component, part, known[0], metadata)
        else:
            component.save_pretrained(part)
    text = json.dumps(index, indent=2, sort_keys=True)
    (folder / folders.INDEX).write_text(text + "\n", "utf-8")


def class_of(component: object) -> tuple[str, str] | None:
    """Library and class of the allow-list that a component is of, or is made from; None for one of neither."""
    for cls in type(component).__mro__:
        library = cls.__module__.partition(".")[0]
        if (library, cls.__name__) in COMPONENTS:
            return library, cls.__name__
        if library == "diffusers" and ("stable_diffusion", cls.__name__) in COMPONENTS:
            return "stable_diffusion", cls.__name__
    return None


def _save_module(module: Any, part: Path, library: str, metadata: Mapping[str, str]) -> None:
    name = TRANSFORMERS_WEIGHTS if library != "diffusers" else DIFFUSERS_WEIGHTS
    save_file(_plain_tensors(module), part / name, {"format": "pt", **metadata})
    if library == "diffusers":
        module.save_config(part)
    else:
        (part / CONFIG).write_text(module.config.to_json_string(use_diff=False), "utf-8")


def _plain_tensors(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What a module's class asks for by its names, once where one stands in several places, quantized ones widened."""
    narrow = {name: layer for name, layer in module.named_modules() if isinstance(layer, Quantized)}
    hidden = {f"{name}.{suffix}" for name in narrow for suffix in ("quantized", "scale")}
    found: dict[str, torch.Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        mark = (tensor.data_ptr(), tensor.shape)
        if name not in hidden and mark not in seen:
            seen.add(mark)
            found[name] = tensor.detach().to("cpu").contiguous()
    wide: set[int] = set()
    for name, layer in narrow.items():
        if layer.quantized.data_ptr() not in wide:
            wide.add(layer.quantized.data_ptr())
            found[f"{name}.weight"] = layer.weight.detach().to("cpu").contiguous()
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
