"""The components of one model: which it has, and where they are, among the other models that have them too.

Decides when a component is placed, stands in host memory or is left empty for the RAM tier, by what this model needs of
it; what others need is counted at the component. Knows no pipelines and no runs.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack

import torch

from ramtier.blocks import Block
from worker.components import Component
from worker.copying import copied
from worker.devices.base import LostError
from worker.devices.torch_device import TorchDevice
from worker.job import Job
from worker.reader import Reader


class Holding:
    """`found`: the components by the parts that they stand in. A model that `streams` has none there at rest."""

    def __init__(self, device: TorchDevice, found: Mapping[str, Component], *, streams: bool) -> None:
        self._device = device
        self._streams = streams
        self._by_part = dict(found)
        self.all = list(dict.fromkeys(found.values()))
        self.placed: list[Component] = []
        self.is_aside = False
        self._shared: list[Component] = []
        self._waiting: list[Component] = []
        self._claims = ExitStack()
        self._blocks: dict[Component, Block] = {}

    def absent(self) -> list[Component]:
        """Those that this model has not on the device."""
        return [one for one in self.all if one not in self.placed]

    # moves of the whole

    def claim(self) -> None:
        wanted = [one for one in self.absent() if one.empty]
        blocks = {one: self._claims.enter_context(self._device.ram.lent(one.key)) for one in wanted}
        if None in blocks.values():
            self._claims.close()
            raise LostError(f"{sum(block is None for block in blocks.values())} parts have left the RAM tier")
        self._blocks = {one: block for one, block in blocks.items() if block is not None}
        self._shared = [one for one in self.absent() if one.placed and not self._streams]
        self._waiting = [one for one in self.absent() if not one.empty and (self._streams or not one.placed)]
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
        reader = Reader(job.check if job is not None else _unwatched, lambda _: None)
        filled = []
        try:
            for component in self.absent():
                if component.empty:
                    filled.append(component)
                    component.fill(self._blocks[component], reader)
            if not self._streams:
                self.place()
        except BaseException:
            for component in filled:
                component.strip()
            raise
        if self._streams:
            self._stand_aside()

    def place(self) -> None:
        """Onto the device, what is not there by others. Raises the device's `out_of_memory`."""
        absent = self.absent()
        self._device.place([one for one in absent if not one.placed])
        for component in absent:
            component.placed += 1
        self.placed += absent
        self._come_back()

    def demote(self) -> None:
        self._come_back()
        self._displace(self._leave())
        for component in self.all:
            component.strip()

    def step_aside(self) -> None:
        self._device.displace(self._leave(), keep=True)
        self._stand_aside()

    def release(self) -> int:
        self._come_back()
        self._displace(self._leave())
        freed = 0
        for component in self.all:
            freed += self._device.components.let_go(component)
            if component.models:
                component.strip()
        self.all.clear()
        return freed

    # copies

    def copy(self, *, evict: bool) -> Generator[None, None, bool]:
        return copied(self.all, self._device.ram, evict=evict)

    def keep_copy(self) -> bool:
        return self._device.ram.hold([one.key for one in self.all])

    # single components

    def take(self, part: str, module: torch.nn.Module, size_bytes: int, key: str) -> Component:
        """Another component in a part's place, or one more; wherever this model's are.

        Raises the device's `out_of_memory`, and is as it was then.
        """
        component = self._device.components.hold(module, size_bytes, key)
        try:
            self._join(component)
        except BaseException:
            self._device.components.let_go(component)
            raise
        self.let_go(part, component)
        self._by_part[part] = component
        return component

    def let_go(self, part: str, coming: Component | None = None) -> None:
        """A part leaves; its component too, where it stands nowhere else in the model, and is not the one to come."""
        component = self._by_part.pop(part, None)
        if component is None or component is coming or component in self._by_part.values():
            return
        self.all.remove(component)
        if component in self.placed:
            self.placed.remove(component)
            self._displace(self._take_off([component]))
        elif self.is_aside:
            component.aside -= 1
        self._device.components.let_go(component)
        if component.models:
            component.strip()

    def _join(self, component: Component) -> None:
        if component in self.all:
            self._device.components.let_go(component)
            return
        if self.placed:
            if not component.placed:
                self._device.place([component])
            component.placed += 1
            self.placed.append(component)
        elif self.is_aside:
            component.aside += 1
        self.all.append(component)

    # counting

    def _stand_aside(self) -> None:
        """Its tensors are needed in host memory."""
        for component in self.all if not self.is_aside else ():
            component.aside += 1
        self.is_aside = True

    def _come_back(self) -> None:
        """It does not stand aside any more."""
        for component in self.all if self.is_aside else ():
            component.aside -= 1
        self.is_aside = False

    def _leave(self) -> list[Component]:
        """This model is not on the device any more: its components that no other model has there."""
        gone = self._take_off(self.placed)
        self.placed = []
        return gone

    def _take_off(self, components: Sequence[Component]) -> list[Component]:
        for component in components:
            component.placed -= 1
        return [one for one in components if not one.placed]

    def _displace(self, gone: Sequence[Component]) -> None:
        """Off the device; into host memory what another model needs there."""
        if gone:
            self._device.displace([one for one in gone if one.aside], keep=True)
            self._device.displace([one for one in gone if not one.aside], keep=False)


def _unwatched() -> None:
    """Nobody cancels."""
