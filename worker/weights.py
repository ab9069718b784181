"""A module's tensors as one block: where each lies in it, out to a RAM tier, and back into memory of the worker's own.

Decides the form of a block: the size of its table (8 bytes, little-endian), the table, and the tensors, each at its
alignment. A module that is in the RAM tier alone keeps its places, with nothing in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec
import torch

from protocol.records import Record
from ramtier.blocks import Block
from worker.arena import Arena, aligned
from worker.reader import Reader

CHUNK_BYTES = 8 << 20
"""Written at once; whoever writes between commands looks for one after each."""

HEAD_BYTES = 8


class Place(Record, frozen=True, kw_only=True):
    """Where a tensor lies: the names that it has in its module, its type and shape, bytes from the first tensor on."""

    names: list[str]
    type: str
    shape: list[int]
    offset: int

    @property
    def dtype(self) -> torch.dtype:
        found: torch.dtype = getattr(torch, self.type)
        return found

    @property
    def bytes(self) -> int:
        return self.dtype.itemsize * torch.Size(self.shape).numel()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Place])


class Weights:
    """The tensors of a module as they were when this was made, tied ones once. `bytes` are those of its block."""

    def __init__(self, module: torch.nn.Module) -> None:
        names: dict[int, list[str]] = {}
        tensors = tensors_of(module)
        for name, tensor in tensors.items():
            names.setdefault(id(tensor), []).append(name)
        self.places: list[Place] = []
        offset = 0
        for group in names.values():
            tensor = tensors[group[0]]
            kind = str(tensor.dtype).removeprefix("torch.")
            self.places.append(Place(names=group, type=kind, shape=list(tensor.shape), offset=offset))
            offset += aligned(self.places[-1].bytes)
        table = _encoder.encode(self.places)
        self._head = len(table).to_bytes(HEAD_BYTES, "little") + table
        self.bytes = aligned(len(self._head)) + offset

    def written(self, module: torch.nn.Module, block: Block) -> Iterator[None]:
        """Write the module's tensors, pausing after each chunk. Raises OSError where no memory is left for them."""
        block.write(0, self._head)
        begin, tensors, written = aligned(len(self._head)), tensors_of(module), 0
        for place in self.places:
            tensor = tensors[place.names[0]].detach()
            if tensor.dtype is not place.dtype or list(tensor.shape) != place.shape:
                raise ValueError(f"{place.names[0]} is of {tensor.dtype} {list(tensor.shape)} meanwhile")
            flat = tensor.contiguous().view(-1).view(torch.uint8)
            for first in range(0, len(flat), CHUNK_BYTES):
                piece = flat[first : first + CHUNK_BYTES].cpu()
                block.write(begin + place.offset + first, memoryview(piece.numpy()))  # type: ignore[arg-type]
                written += len(piece)
                if written >= CHUNK_BYTES:
                    written = 0
                    yield

    def fill(self, module: torch.nn.Module, found: Mapping[str, torch.Tensor]) -> None:
        """Put tensors into their places."""
        for name, tensor in tensors_of(module).items():
            tensor.data = found[name]

    def strip(self, module: torch.nn.Module) -> None:
        """Leave every place empty, so that the memory of its tensor is given back."""
        for tensor in tensors_of(module).values():
            tensor.data = torch.empty(0, dtype=tensor.dtype)


def read(block: Block, reader: Reader) -> dict[str, torch.Tensor]:
    """The tensors of a block in memory of their own, by name. Raises OSError, and what the reader does."""
    size = int.from_bytes(block.read(0, HEAD_BYTES), "little")
    places = _decoder.decode(block.read(HEAD_BYTES, size))
    begin = aligned(HEAD_BYTES + size)
    arena = Arena(sum(aligned(place.bytes) for place in places))
    made: dict[str, torch.Tensor] = {}
    for place in places:
        made |= dict.fromkeys(place.names, arena.tensor(tuple(place.shape), place.dtype))
    reader.copy(block.descriptor, begin, arena.whole())
    return made


def tensors_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by name, tied ones by each of theirs."""
    named = dict(module.named_parameters(remove_duplicate=False))
    return {**named, **dict(module.named_buffers(remove_duplicate=False))}
