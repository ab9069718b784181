"""What a part's configuration asks for, built without memory and compared with the tensors that its files hold.

Decides whether a configuration and its weights belong together before anything of their size is made. Modules are built
on torch's meta device, whose tensors have shapes and no bytes; more of them than the weights could fill ends the
building at once. What a library cannot build from a configuration is told with the key that is to blame.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from modelfiles.headers import Header, Tensor, read_header
from modelfiles.jsonfile import JsonObject, incompatible, read_object
from protocol.errors import Fault, brief
from protocol.records import Record
from settings.logs import Logger

CONFIG = "config.json"
SCHEDULER_CONFIG = "scheduler_config.json"

MODULES_FOR_A_TENSOR = 20
SPARE_MODULES = 2000
SPARE_TENSORS = 64
SPARE_ELEMENTS = 4 << 20
"""Beyond what the weights could fill: tables that are computed, tensors that are tied."""

TRIED_STEPS = 4
BLAME_SECONDS = 3.0

_WORD = re.compile(r"[a-z_0-9]{4,}")
_DIGITS = re.compile(r"\d+")
log = Logger()


class Held(Record, frozen=True, kw_only=True):
    """The tensors of a part's files: shapes by name, how many values they are; `exact`: the names are the modules'."""

    shapes: dict[str, tuple[int, ...]]
    elements: int
    exact: bool = True

    @staticmethod
    def of(tensors: Iterator[Tensor] | list[Tensor], *, exact: bool) -> Held:
        shapes = {tensor.name: tensor.shape for tensor in tensors}
        return Held(shapes=shapes, elements=sum(map(math.prod, shapes.values())), exact=exact)


def check_folder(part: str, cls: Any, folder: Path) -> tuple[torch.nn.Module, dict[Path, Header]]:
    """The module without memory of a part with weights in a diffusers folder, and the headers of its files.

    Raises Fault MODEL_INCOMPATIBLE.
    """
    headers = {path: read_header(path) for path in sorted(folder.iterdir()) if path.suffix == ".safetensors"}
    tensors = [tensor for header in headers.values() for tensor in header.tensors]
    return check_module(part, cls, read_object(folder / CONFIG), Held.of(tensors, exact=True)), headers


def check_module(part: str, cls: Any, config: JsonObject, held: Held) -> torch.nn.Module:
    """The module without memory. Raises Fault MODEL_INCOMPATIBLE where the class cannot be built from the
    configuration, or asks for more than the weights have, or for other shapes."""
    try:
        with _bounded(held):
            module = _module(cls, config)
    except _TooMuch as error:
        text = f"{part}: its configuration asks for {error}, and its weights have {len(held.shapes)} tensors"
        raise incompatible(f"{text} of {held.elements} values", part=part) from None
    except Exception as error:
        with _bounded(held):
            key = _blamed(lambda without: _module(cls, without), config, error)
        raise _unbuildable(part, error, config, key) from None
    _compare(part, module, held)
    return module


def check_scheduler(part: str, cls: Any, folder: Path) -> None:
    """Raise Fault MODEL_INCOMPATIBLE where a scheduler cannot be made from its configuration, or cannot count steps."""
    config = read_object(folder / SCHEDULER_CONFIG)
    try:
        _schedule(cls, config)
    except Exception as error:
        key = _blamed(lambda without: _schedule(cls, without), config, error)
        raise _unbuildable(part, error, config, key) from None


def module_of(cls: Any, config: JsonObject) -> torch.nn.Module:
    """A class's module by its configuration, wherever its tensors are made."""
    if hasattr(cls, "config_class"):
        made: torch.nn.Module = cls(cls.config_class.from_dict(dict(config)))
    else:
        made = cls.from_config(dict(config))
    return made


def _module(cls: Any, config: JsonObject) -> torch.nn.Module:
    with torch.device("meta"):
        return module_of(cls, config)


def _schedule(cls: Any, config: JsonObject) -> None:
    scheduler = cls.from_config(dict(config))
    shifts = {"mu": 1.0} if scheduler.config.get("use_dynamic_shifting") else {}
    scheduler.set_timesteps(TRIED_STEPS, **shifts)
    if not torch.isfinite(torch.as_tensor(scheduler.timesteps, dtype=torch.float64)).all():
        raise ValueError("its time steps are not finite")


def _compare(part: str, module: torch.nn.Module, held: Held) -> None:
    asked = {name: tuple(tensor.shape) for name, tensor in module.state_dict(keep_vars=True).items()}
    unknown = 0
    for name, shape in asked.items():
        found = held.shapes.get(name)
        if found is None:
            unknown += math.prod(shape)
        elif found != shape:
            text = f"{part}: its configuration asks for {name} of {list(shape)}, and its weights have {list(found)}"
            raise incompatible(text, part=part, tensor=name)
    most = held.elements if held.exact else held.elements + held.elements // 10
    if unknown > most + SPARE_ELEMENTS:
        text = f"{part}: its configuration asks for {unknown} values, and its weights have {held.elements}"
        raise incompatible(text, part=part)


class _TooMuch(Exception):
    """A module of more than the weights could fill; the text says of what."""


@contextmanager
def _bounded(held: Held) -> Iterator[None]:
    """Raises _TooMuch out of the building of a module that grows beyond what the weights could fill."""
    most_tensors = 2 * len(held.shapes) + SPARE_TENSORS
    most_modules = MODULES_FOR_A_TENSOR * len(held.shapes) + SPARE_MODULES
    most_elements = 2 * held.elements + SPARE_ELEMENTS
    tensors = modules = elements = 0

    def tensor_comes(_module: object, _name: str, tensor: torch.Tensor | None) -> None:
        nonlocal tensors, elements
        if tensor is None:
            return
        tensors += 1
        elements += tensor.numel()
        if tensors > most_tensors:
            raise _TooMuch(f"more than {most_tensors} tensors")
        if elements > most_elements:
            raise _TooMuch(f"more than {most_elements} values")

    def module_comes(_module: object, _name: str, _child: object) -> None:
        nonlocal modules
        modules += 1
        if modules > most_modules:
            raise _TooMuch(f"more than {most_modules} modules")

    with ExitStack() as hooks:
        for handle in (
            register_module_parameter_registration_hook(tensor_comes),
            register_module_buffer_registration_hook(tensor_comes),
            register_module_module_registration_hook(module_comes),
        ):
            hooks.callback(handle.remove)
        yield


def _blamed(build: Callable[[JsonObject], object], config: JsonObject, error: Exception) -> str:
    """The key to blame for an error: without it, the class's own default in its place, the class can be built; else
    one that the error speaks of; else one without which it fails of something else; "" where there is none."""
    end = time.monotonic() + BLAME_SECONDS
    words = set(_WORD.findall(str(error)))
    suspect = next((key for key in config if key in words), "")
    for key in config:
        if time.monotonic() > end:
            break
        try:
            build({name: value for name, value in config.items() if name != key})
        except Exception as other:
            if not suspect and (type(other), _DIGITS.sub("", str(other))) != (type(error), _DIGITS.sub("", str(error))):
                suspect = key
            continue
        return key
    return suspect


def _unbuildable(part: str, error: Exception, config: Mapping[str, object], key: str) -> Fault:
    # What a library says may show paths and code: the log has it, the client has the kind.
    log.warning("a part cannot be built", part=part, error=f"{type(error).__name__}: {error}"[:500], key=key)
    if not key:
        return incompatible(f"{part} cannot be built from its configuration: {type(error).__name__}", part=part)
    value = brief(config[key])
    text = f"{part} cannot be built from its configuration: {key[:80]} is {value} ({type(error).__name__})"
    return incompatible(text, part=part, key=key[:80])
