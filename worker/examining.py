"""A checked model's parts built and held against their files: everything of a load but the weights themselves.

What stands for a weight is memory that nobody touches, and so takes up none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from modelfiles.headers import Header, Tensor
from ramtier.tier import PrivateTier
from worker.components import Components
from worker.configurations import Configuration
from worker.devices.base import Build
from worker.loader import read_parts, small_parts
from worker.originals import Names
from worker.reader import Choose, Reader, type_of
from worker.staging import Staging
from worker.stock import Stock


class _Outlines(Reader):
    """Reads nothing: tensors of the shapes that the headers have, whatever is in them."""

    def read(self, files: Iterable[tuple[Path, Header, Iterable[Tensor]]], choose: Choose) -> dict[str, torch.Tensor]:
        return {
            tensor.name: torch.empty(tensor.shape, dtype=choose(tensor.name, type_of(tensor, path)))
            for path, _, tensors in files
            for tensor in tensors
        }


class _Once(Stock):
    """A stock that keeps nothing: each part is made, and let go."""

    def __init__(self, check: Callable[[], None]) -> None:
        tier = PrivateTier(0)
        super().__init__(Components(tier), tier, _Outlines(check, lambda _: None), usable=False)
        self.parts = 0
        self._check = check

    def module(
        self, part: str, key: str, fill: Callable[[Names], torch.nn.Module], make: Callable[[], torch.nn.Module]
    ) -> torch.nn.Module:
        """Nothing of use. Raises as a load does, and what `check` raises."""
        self._check()
        make()
        self.parts += 1
        return torch.nn.Module()


def examine(build: Build, configuration: Configuration | None, staging: Staging, check: Callable[[], None]) -> int:
    """The parts looked at. Raises Fault as a load would, and what `check` raises, which is asked between parts."""
    stock = _Once(check)
    read_parts(build, configuration, staging, stock)
    return stock.parts + small_parts(build, configuration, staging, stock)
