"""How alike two pictures are: what an optimisation does to what a model draws.

PSNR = 10 x log10(255^2 / mean squared error), in dB, `MOST_PSNR` for equal pictures. SSIM after Wang et al. 2004, on
the luminance (ITU-R BT.601), with a uniform window of 7 x 7 and the constants 0.01 and 0.03; 1 for equal pictures. The
distance of two latents is |a - b| / |a|, Euclidean.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from worker.devices.base import Raster

WINDOW = 7
MOST_PSNR = 100.0
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
LUMINANCE = (0.299, 0.587, 0.114)

Floats = NDArray[np.float64]


def pixels(raster: Raster) -> Floats:
    """[height, width, 3], 0-255."""
    return np.frombuffer(raster.rgb, np.uint8).reshape(raster.height, raster.width, 3).astype(np.float64)


def psnr(one: Raster, other: Raster) -> float:
    """Of pictures of one size."""
    error = float(np.mean((pixels(one) - pixels(other)) ** 2))
    return min(MOST_PSNR, 10 * math.log10(255**2 / error)) if error else MOST_PSNR


def ssim(one: Raster, other: Raster) -> float:
    """Of pictures of one size, of at least 7 x 7 pixels; else of the whole at once."""
    a, b = pixels(one) @ LUMINANCE, pixels(other) @ LUMINANCE
    window = min(WINDOW, *a.shape)
    count = window * window
    mean_a, mean_b = _means(a, window), _means(b, window)
    # The sample's variance, as the paper's reference code has it.
    scale = count / (count - 1) if count > 1 else 1.0
    variance_a = scale * (_means(a * a, window) - mean_a**2)
    variance_b = scale * (_means(b * b, window) - mean_b**2)
    covariance = scale * (_means(a * b, window) - mean_a * mean_b)
    above = (2 * mean_a * mean_b + C1) * (2 * covariance + C2)
    below = (mean_a**2 + mean_b**2 + C1) * (variance_a + variance_b + C2)
    return float(np.mean(above / below))


def _means(values: Floats, window: int) -> Floats:
    """The mean of each whole window."""
    sums = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    found: Floats = (
        sums[window:, window:] - sums[:-window, window:] - sums[window:, :-window] + sums[:-window, :-window]
    )
    return found / (window * window)


def distance(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Of latents of one shape."""
    length = float(np.linalg.norm(one))
    return float(np.linalg.norm(one - other)) / length if length else 0.0
