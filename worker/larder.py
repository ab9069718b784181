"""Parts that are read ahead: into the RAM tier, where nobody holds them yet.

Decides which parts are worth it: those that neither the device's models nor the tier have. Nothing is driven out for
them, and they are the first to go where something else needs the room.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from ramtier.blocks import Block
from ramtier.tier import RamTier
from worker.components import Components
from worker.originals import Names
from worker.prefetch import Full, Watch
from worker.reader import Reader
from worker.stock import Stock
from worker.weights import Weights


class Larder(Stock):
    """A stock that is filled. `verify` raises where a file is another than when it was opened."""

    def __init__(
        self, components: Components, ram: RamTier, reader: Reader, watch: Watch, verify: Callable[[], None]
    ) -> None:
        super().__init__(components, ram, reader, usable=True)
        self._watch = watch
        self._verify = verify
        self.bytes = 0
        """Brought into the tier."""

    def module(
        self, part: str, key: str, fill: Callable[[Names], torch.nn.Module], make: Callable[[], torch.nn.Module]
    ) -> torch.nn.Module:
        """Nothing of use: the part is in the tier. Raises Full, Stopped."""
        self._watch.between()
        if key and self._components.module(key) is None and not self._ram.has(key):
            self._bring(key, make())
        return torch.nn.Module()

    def _bring(self, key: str, module: torch.nn.Module) -> None:
        weights = Weights(module)
        wanted = self._ram.reserve({key: weights.bytes}, evict=False)
        if wanted is None:
            raise Full
        if not wanted:
            # Another worker has brought it meanwhile, and holds it.
            self._ram.let_go([key])
            return
        try:
            with Block.make(f"vrambroker {type(module).__name__}", weights.bytes) as block:
                for _ in weights.written(module, block):
                    self._watch.check()
                self._verify()
                if self._ram.publish(key, block, spare=True):
                    self.bytes += weights.bytes
        except BaseException:
            self._ram.abandon(key)
            raise
