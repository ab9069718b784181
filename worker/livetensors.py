"""The largest sum of live tensors of a run on the cpu: counted storage by storage, since torch keeps no such figure."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the storages that operations make while they live; those of `modules` are weights and not counted.

    Past `allowed_bytes` an operation raises `torch.OutOfMemoryError`, as an allocator would; None for no bound.
    """

    def __init__(self, modules: Iterable[torch.nn.Module], allowed_bytes: int | None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self.refusal: torch.OutOfMemoryError | None = None
        self._allowed_bytes = allowed_bytes
        self._known: set[int] = {
            tensor.untyped_storage()._cdata
            for module in modules
            for tensor in (*module.parameters(), *module.buffers())
        }

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.device.type == "cpu":
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        weakref.finalize(storage, self._gone, key, size)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        if self._allowed_bytes is not None and self.live_bytes > self._allowed_bytes:
            self.refusal = torch.OutOfMemoryError(
                f"the run holds {self.live_bytes} bytes beside the model: its share leaves {self._allowed_bytes}"
            )
            raise self.refusal

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live_bytes -= size
