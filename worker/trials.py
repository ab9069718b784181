"""What torch computes on a device: a small product and a convolution in each type, tried once, and how fast one is."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch

SIDE = 256
RATE_SIDES = {"cpu": 512, "cuda": 4096}
ROUNDS = 3


def failure(device: torch.device, dtype: torch.dtype) -> str:
    """Why a type does not compute on a device; "" where it does, and gives finite numbers."""
    try:
        ones = torch.ones(SIDE // 8, SIDE // 8, device=device, dtype=dtype)
        product = ones @ ones
        picture = torch.nn.functional.conv2d(ones[None, None], torch.ones(1, 1, 3, 3, device=device, dtype=dtype))
        finite = bool(torch.isfinite(product).all()) and bool(torch.isfinite(picture).all())
    except RuntimeError as error:
        return str(error).partition("\n")[0][:200]
    return "" if finite else "a product of ones is not finite"


def failures(device: torch.device, dtypes: Iterable[torch.dtype]) -> dict[torch.dtype, str]:
    """As `failure`, of each type."""
    return {dtype: failure(device, dtype) for dtype in dtypes}


def operations_per_second(device: torch.device, dtype: torch.dtype, synchronize: Callable[[], None]) -> float:
    """Floating-point operations in a second of a square product, 2 n^3 of them: the best of `ROUNDS`."""
    side = RATE_SIDES[device.type]
    values = torch.ones(side, side, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(ROUNDS):
        synchronize()
        began = time.perf_counter()
        values @ values
        synchronize()
        best = min(best, time.perf_counter() - began)
    return 2.0 * side**3 / max(best, 1e-9)
