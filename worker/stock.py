"""What a load finds here already: parts of other models of this device, and contents of the RAM tier.

Decides where a part comes from: a module that is held, a block of the RAM tier, or its files. Nothing that a load finds
in the RAM tier is held by it, so that one which fails leaves the tier as it was.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from protocol.enums import LoadSource
from ramtier.tier import RamTier
from worker.components import Components
from worker.originals import Names
from worker.reader import Reader
from worker.weights import read

SLOWNESS = (LoadSource.VRAM, LoadSource.RAM, LoadSource.DISK)


class Stock:
    """One load's parts; `source` is where the slowest of them came from. `usable` is false for one that reads anew."""

    def __init__(self, components: Components, ram: RamTier, reader: Reader, *, usable: bool) -> None:
        self.reader = reader
        self.source = LoadSource.VRAM
        self.keys: dict[str, str] = {}
        """The key of each part that has one, by its name."""
        self._components = components
        self._ram = ram
        self._usable = usable

    def module(
        self, part: str, key: str, fill: Callable[[Names], torch.nn.Module], make: Callable[[], torch.nn.Module]
    ) -> torch.nn.Module:
        """A part with weights: `fill` gives it tensors by its module's own names, `make` reads it from its files."""
        if not key or not self._usable:
            self._came_from(LoadSource.DISK)
            return make()
        self.keys[part] = key
        held = self._components.module(key)
        if held is not None:
            return held
        with self._ram.lent(key) as block:
            found = read(block, self.reader) if block is not None else None
        self._came_from(LoadSource.DISK if found is None else LoadSource.RAM)
        return make() if found is None else fill(found)

    def _came_from(self, source: LoadSource) -> None:
        self.source = max(self.source, source, key=SLOWNESS.index)
