"""The modules of a device's models, one for all models that have equal ones.

Decides what is equal: the class, the configuration, and every tensor bit by bit, compared in memory. A digest of
samples would be quicker and could take a part for another that differs in a few rows. Who is on the device is counted
here, so that a part leaves it with the last model that needs it there.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable
from typing import Any

import torch

from protocol.ramtier import PRIVATE
from ramtier.blocks import Block
from ramtier.tier import RamTier
from worker.devices.base import PartBytes
from worker.reader import Reader
from worker.weights import Weights, read, tensors_of

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers of each width: what values are compared as, so that signed zeros differ and NaNs are equal."""

UNTOLD = ("transformers_version", "dtype", "torch_dtype")
"""Keys of configurations that say where a part comes from and change nothing, beside those that begin with _."""


KEY_BYTES = 16


class Component:
    """A module that models hold: `models` of them, `placed` of which have it on the device.

    `aside`: so many of them need it in host memory, since they stand aside or are about to be placed. What is in none
    of these places is in the RAM tier under its key, for those that left; `empty`: and there alone.
    """

    def __init__(self, key: str, kind: str, module: torch.nn.Module, size_bytes: int) -> None:
        self.key = key
        self.kind = kind
        self.module = module
        self.bytes = size_bytes
        self.models = 0
        self.placed = 0
        self.weights = Weights(module)
        self.aside = 0
        self.empty = False

    def strip(self) -> None:
        """Give the memory of its tensors back, where nobody needs them here."""
        if not (self.placed or self.aside or self.empty):
            self.weights.strip(self.module)
            self.empty = True

    def fill(self, block: Block, reader: Reader) -> None:
        """Its tensors out of the RAM tier into memory of their own. Raises what the reader does, and is empty then."""
        if self.empty:
            self.weights.fill(self.module, read(block, reader))
            self.empty = False

    def adopt(self, module: torch.nn.Module) -> None:
        """Take the tensors of an equal module, where its own are not in this process."""
        if self.empty:
            self.weights.fill(self.module, tensors_of(module))
            self.empty = False


class Components:
    """Every module that a device's models hold."""

    def __init__(self, ram: RamTier) -> None:
        self._held: list[Component] = []
        self._ram = ram

    def __len__(self) -> int:
        return len(self._held)

    def module(self, key: str) -> torch.nn.Module | None:
        """The module of a component that has its tensors in this process; None where there is none."""
        return next((one.module for one in self._held if one.key == key and not one.empty), None)

    def hold(self, module: torch.nn.Module, size_bytes: int, key: str = "") -> Component:
        """The component of a module just built: one that is held already, where that is equal to it.

        Modules of one `key` are equal; a module that has none is known by one of its own from here on.
        """
        kind = _kind(module)
        found = next((one for one in self._held if key and one.key == key), None)
        if found is None:
            found = next((one for one in self._held if one.kind == kind and self._equal(one, module)), None)
        if found is None:
            found = Component(key or PRIVATE + secrets.token_hex(KEY_BYTES), kind, module, size_bytes)
            self._held.append(found)
        else:
            found.adopt(module)
        found.models += 1
        return found

    def let_go(self, component: Component) -> int:
        """One model less holds it. The bytes that left the RAM tier, where it was the last."""
        component.models -= 1
        if component.models:
            return 0
        self._held.remove(component)
        return self._ram.let_go([component.key])

    def _equal(self, one: Component, module: torch.nn.Module) -> bool:
        if not one.empty:
            return equal(one.module, module)
        with self._ram.lent(one.key) as block:
            found = read(block, Reader(lambda: None, lambda _: None)) if block is not None else None
        theirs = tensors_of(module)
        return (
            found is not None
            and found.keys() == theirs.keys()
            and all(_same(tensor, theirs[name]) for name, tensor in found.items())
        )


def shared(components: dict[str, Any], parts: Iterable[PartBytes], held: Components) -> dict[str, Component]:
    """The component of each part that has weights; modules that are held already take the place of equal new ones.

    A model holds each of its components once, in however many places it stands.
    """
    found: dict[str, Component] = {}
    try:
        for part in parts:
            module = components.get(part.name)
            if not isinstance(module, torch.nn.Module):
                continue
            component = held.hold(module, part.bytes, part.key)
            if component in found.values():
                held.let_go(component)
            components[part.name] = component.module
            found[part.name] = component
    except BaseException:
        for component in set(found.values()):
            held.let_go(component)
        raise
    return found


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two modules of a kind have the same tensors, bit by bit, wherever they are."""
    ours, theirs = tensors_of(one), tensors_of(other)
    if ours.keys() != theirs.keys():
        return False
    return all(_same(tensor, theirs[name]) for name, tensor in ours.items())


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.dtype is not other.dtype or one.shape != other.shape:
        return False
    bits = BITS.get(one.dtype.itemsize)
    if bits is None or not one.numel():
        return bits is not None
    if one.device != other.device:
        # In host memory: the device may have no room for a copy.
        one, other = one.cpu(), other.cpu()
    return torch.equal(one.contiguous().view(-1).view(bits), other.contiguous().view(-1).view(bits))


def _kind(module: torch.nn.Module) -> str:
    """What has to be the same before tensors are looked at: the class and its configuration."""
    config: Any = getattr(module, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config or {})
    told = {key: value for key, value in settings.items() if not key.startswith("_") and key not in UNTOLD}
    return f"{type(module).__module__}.{type(module).__qualname__} {json.dumps(told, sort_keys=True, default=str)}"
