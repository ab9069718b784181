"""A part's module, built without memory and given the tensors that were read for it: the end of every load.

Decides in which type each tensor is read, and what a module shares within itself.
"""

from __future__ import annotations

import re
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights

from modelfiles.jsonfile import JsonObject
from worker.originals import Names
from worker.quantization import Scheme, prepare
from worker.reader import Choose
from worker.skeleton import module_of


def chooser(cls: Any, wanted: torch.dtype) -> Choose:
    """The type for each tensor: the one wanted, Float32 for what the class keeps in that, its own for whole numbers."""
    kept = [re.compile(rf"(^|\.){re.escape(word)}(\.|$)") for word in _kept_in_float32(cls, wanted)]

    def choose(name: str, source: torch.dtype) -> torch.dtype:
        if not source.is_floating_point:
            return source
        return torch.float32 if any(pattern.search(name) for pattern in kept) else wanted

    return choose


def filled(
    cls: Any, config: JsonObject, skeleton: torch.nn.Module, found: Names, scheme: Scheme | None = None
) -> torch.nn.Module:
    """The module with these tensors, which become its own; `skeleton` says which of its places share one.

    The skeleton itself becomes the module where files have all that it holds. Else it is built once more, for what its
    class computes. With a `scheme` the tensors are those of a quantized module.
    """
    if scheme is not None:
        prepare(skeleton, scheme)
    module, places = skeleton, _places(skeleton)
    if _computes(skeleton, found):
        with init_empty_weights(include_buffers=False):
            module = module_of(cls, config)
        if scheme is not None:
            prepare(module, scheme)
    own = module.state_dict(keep_vars=True)
    state = {name: tensor.contiguous() for name, tensor in found.items() if name in own}
    module.load_state_dict(state, strict=False, assign=True)
    _tie(module, places)
    return module.eval()


def _computes(skeleton: torch.nn.Module, found: Names) -> bool:
    """Whether a module has tensors that are in no file: buffers, and what stands beside parameters and buffers."""
    read = skeleton.state_dict(keep_vars=True).keys() & found.keys()
    if any(name not in read for name, _ in skeleton.named_buffers(remove_duplicate=False)):
        return True
    return any(isinstance(value, torch.Tensor) for module in skeleton.modules() for value in vars(module).values())


def _kept_in_float32(cls: Any, wanted: torch.dtype) -> tuple[str, ...]:
    """What a class keeps in Float32 whatever is asked for, as its library reads it from a folder."""
    if wanted is torch.float32:
        return ()
    kept = tuple(getattr(cls, "_keep_in_fp32_modules", None) or ())
    strict = tuple(getattr(cls, "_keep_in_fp32_modules_strict", None) or ())
    if issubclass(cls, transformers.PreTrainedModel):
        return strict + (kept if wanted is torch.float16 else ())
    return kept if issubclass(cls, diffusers.ModelMixin) else ()


def _places(skeleton: torch.nn.Module) -> list[list[str]]:
    """The names of each tensor, which has several where it is tied."""
    places: dict[int, list[str]] = {}
    for name, tensor in skeleton.state_dict(keep_vars=True).items():
        places.setdefault(id(tensor), []).append(name)
    return list(places.values())


def _tie(module: torch.nn.Module, places: list[list[str]]) -> None:
    """Let one tensor stand in all of its places: the one that the file had."""
    for names in places:
        there = [name for name in names if not _at(module, name).is_meta]
        for name in names if there and len(names) > 1 else ():
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, _at(module, there[0]))


def _at(module: torch.nn.Module, name: str) -> torch.Tensor:
    parent, _, last = name.rpartition(".")
    found: torch.Tensor = getattr(module.get_submodule(parent), last)
    return found
