"""How the attention of a run is computed: in slices of its heads, or by the kernel that never holds it whole.

Decides by what torch is asked for, whichever library's layer asks: a mode of this thread, for the length of a run. No
layer is changed, so that models which share a part may be run differently, and what ends leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

SLICES = 2
"""As diffusers' `auto`: half of the heads at once."""

FLASH_FIRST = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""What the flash kernel cannot do, a mask or a wide head on some devices, goes to the next."""

TRIED_TOKENS = 16

POSITIONS = ("attn_mask", "dropout_p", "is_causal")
"""What torch's attention takes behind the three tensors."""


class Sliced(TorchFunctionMode):
    """Attention computed for so many slices of the heads, one after the other; equal to the whole."""

    def __init__(self, slices: int = SLICES) -> None:
        super().__init__()
        self._slices = slices
        self.calls = 0
        """Attentions that were sliced."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func is scaled_dot_product_attention:
            parts = self._parts(*args, **named)
            if parts is not None:
                self.calls += 1
                return torch.cat([func(*one_args, **one_named) for one_args, one_named in parts], dim=1)
        return func(*args, **named)

    def _parts(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any
    ) -> list[tuple[tuple[Any, ...], dict[str, Any]]] | None:
        """The arguments for each slice; None where the heads cannot be sliced. [batch, heads, tokens, width]."""
        if query.ndim != 4 or key.shape[1] < 2 or query.shape[1] % key.shape[1]:
            return None
        group = query.shape[1] // key.shape[1]
        size = -(-key.shape[1] // self._slices)
        settings = {**dict(zip(POSITIONS, rest, strict=False)), **named}
        mask = settings.pop("attn_mask", None)
        whole = mask is None or mask.ndim < 4 or mask.shape[1] == 1
        parts: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        for first in range(0, key.shape[1], size):
            few, many = slice(first, first + size), slice(first * group, (first + size) * group)
            tensors = (query[:, many], key[:, few], value[:, few])
            parts.append((tensors, {**settings, "attn_mask": mask if whole else mask[:, many]}))
        return parts


@contextmanager
def flash() -> Iterator[None]:
    """The flash kernel wherever it can compute what is asked for."""
    with sdpa_kernel(FLASH_FIRST, set_priority=True):
        yield


def flash_kernel(device: torch.device, dtype: torch.dtype, head_width: int) -> str:
    """What torch calls the flash kernel that it runs here for such heads; "" where it has none."""
    shape = (1, 1, TRIED_TOKENS, head_width)
    with _Named() as named:
        try:
            tried = torch.zeros(shape, dtype=dtype, device=device)
            with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                scaled_dot_product_attention(tried, tried, tried)
        except RuntimeError:
            return ""
    return next((name for name in named.names if "flash" in name), "")


def layers(modules: Iterable[torch.nn.Module]) -> list[Any]:
    """The attention layers of diffusers' models: those with projections of queries."""
    return [layer for module in modules for layer in module.modules() if hasattr(layer, "to_q")]


def head_width(layer: Any) -> int:
    """The width of one head of such a layer."""
    width, heads = layer.to_q.weight.shape[0], getattr(layer, "heads", 1)
    return int(width) // int(heads if isinstance(heads, int) and heads > 0 else 1)


class _Named(TorchDispatchMode):
    """The names of the operations that run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))
