"""Models whose weights wait in host memory and come onto the device for their use: whole parts, or block by block.

Decides the pieces and when each is there. *Offloading*: a part is there from its first call until another is called.
*Splitting*: of a part that has blocks its stem is there so long, and of the blocks the one that computes and the one
before it. What a device has of a part by another model is used as it is.

Nothing is copied back: a piece that leaves points at the tensors that waited for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import torch

from worker.parts import tensor_bytes

SLOTS = 2
"""Blocks that are on the device at once."""

ENTRIES = ("forward", "encode", "decode")
"""Methods by which pipelines call a part."""

SHARE = 8
"""A block that is more than one of so many shares of its part is streamed by its own blocks, where it has some."""


class Piece:
    """Tensors that come onto the device together, and leave it together."""

    def __init__(self, tensors: Iterable[torch.Tensor]) -> None:
        self.tensors = list({id(tensor): tensor for tensor in tensors}.values())
        self.bytes = sum(map(tensor_bytes, self.tensors))
        self.waiting: list[torch.Tensor] = []
        """What the tensors held before, while it is on the device."""

    def move(self, device: torch.device) -> None:
        """Point the tensors at copies on a device. Raises what torch does; then they point where they did."""
        moved = [tensor.data.to(device, non_blocking=True) for tensor in self.tensors]
        self.waiting = [tensor.data for tensor in self.tensors]
        for tensor, data in zip(self.tensors, moved, strict=True):
            tensor.data = data

    def come_back(self) -> None:
        """Point the tensors at what waited."""
        for tensor, data in zip(self.tensors, self.waiting, strict=True):
            tensor.data = data
        self.waiting = []


class Carrier(Protocol):
    """A device, as far as pieces are concerned."""

    def bring(self, piece: Piece) -> None:
        """Onto the device, or nothing of it. Raises its `out_of_memory`."""

    def send_back(self, piece: Piece) -> None:
        """Off the device."""


class Streamed:
    """A part: its stem, and its blocks with the modules whose calls want them."""

    def __init__(self, module: torch.nn.Module, *, split: bool) -> None:
        self.module = module
        found = list(_blocks(module, _bytes(module) // SHARE)) if split else []
        self.blocks = [(block, Piece(_tensors(block))) for block in found]
        inside = {id(tensor) for _, piece in self.blocks for tensor in piece.tensors}
        self.stem = Piece(tensor for tensor in _tensors(module) if id(tensor) not in inside)

    @property
    def bytes(self) -> int:
        """Of the whole part."""
        return self.stem.bytes + sum(piece.bytes for _, piece in self.blocks)

    @property
    def most_bytes(self) -> int:
        """What the device has of it at the most."""
        largest = sorted((piece.bytes for _, piece in self.blocks), reverse=True)
        return self.stem.bytes + sum(largest[:SLOTS])


class Flow:
    """One run's pieces. A context: outside of it nothing is on the device, and no module is changed."""

    def __init__(self, carrier: Carrier, parts: Sequence[Streamed]) -> None:
        self._carrier = carrier
        self._parts = parts
        self._current: Streamed | None = None
        self._slots: deque[Piece] = deque()
        self._hooks = ExitStack()
        self.moves = 0

    def __enter__(self) -> Flow:
        for part in self._parts:
            for entry in ENTRIES:
                if entry == "forward" or hasattr(type(part.module), entry):
                    self._before(part.module, entry, partial(self._use, part))
            for block, piece in part.blocks:
                self._before(block, "forward", partial(self._hold, part, piece))
        return self

    def __exit__(self, *_: object) -> None:
        self._hooks.close()
        self._leave()

    def _before(self, module: Any, entry: str, first: Callable[[], None]) -> None:
        """Have something done before each call of a method."""
        inner = getattr(module, entry)

        def called(*args: Any, **named: Any) -> Any:
            first()
            return inner(*args, **named)

        vars(module)[entry] = called
        self._hooks.callback(vars(module).pop, entry)

    def _use(self, part: Streamed) -> None:
        if self._current is not part:
            self._leave()
            self._carrier.bring(part.stem)
            self._current = part
            self.moves += 1

    def _hold(self, part: Streamed, piece: Piece) -> None:
        self._use(part)
        if piece in self._slots:
            return
        if len(self._slots) == SLOTS:
            self._carrier.send_back(self._slots.popleft())
        self._carrier.bring(piece)
        self._slots.append(piece)
        self.moves += 1

    def _leave(self) -> None:
        while self._slots:
            self._carrier.send_back(self._slots.popleft())
        if self._current is not None:
            self._carrier.send_back(self._current.stem)
            self._current = None


def _blocks(module: torch.nn.Module, most_bytes: int) -> Iterator[torch.nn.Module]:
    """Modules that are called one after the other: the items of its lists, of those that are too large their own."""
    for child in module.children():
        if isinstance(child, torch.nn.ModuleList):
            for item in child:
                inner = list(_blocks(item, most_bytes)) if _bytes(item) > most_bytes else []
                yield from inner or [item]
        elif any(isinstance(one, torch.nn.ModuleList) for one in child.modules()):
            yield from _blocks(child, most_bytes)


def _tensors(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _bytes(module: torch.nn.Module) -> int:
    return sum(map(tensor_bytes, _tensors(module)))
