"""How alike pictures are: numbers that can be checked by hand, and what every such measure must have."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.devices.base import Raster
from worker.optimizing.likeness import C1, C2, LUMINANCE, MOST_PSNR, distance, psnr, ssim


def raster(values: np.ndarray) -> Raster:  # type: ignore[type-arg]
    height, width = values.shape
    rgb = np.repeat(values.astype(np.uint8)[:, :, None], 3, axis=2)
    return Raster(width=width, height=height, rgb=rgb.tobytes())


def noise(seed: int, side: int = 16) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(seed).integers(0, 256, (side, side))


def test_equal_pictures_are_as_alike_as_can_be() -> None:
    one = raster(noise(1))
    assert (ssim(one, one), psnr(one, one)) == (pytest.approx(1.0), MOST_PSNR)
    assert distance(np.ones(4, np.float32), np.ones(4, np.float32)) == 0


def test_a_difference_of_one_level_is_48_db() -> None:
    flat = np.full((8, 8), 100)
    assert psnr(raster(flat), raster(flat + 1)) == pytest.approx(20 * math.log10(255))


def test_flat_pictures_differ_by_their_brightness_alone() -> None:
    dark, light = raster(np.full((8, 8), 50)), raster(np.full((8, 8), 100))
    assert ssim(dark, light) == pytest.approx((2 * 50 * 100 + C1) / (50**2 + 100**2 + C1))


def test_a_picture_of_one_window_is_the_formula_itself() -> None:
    a, b = noise(2, 7), noise(3, 7)
    mean_a, mean_b = a.mean(), b.mean()
    covariance = np.cov(a.ravel(), b.ravel())
    above = (2 * mean_a * mean_b + C1) * (2 * covariance[0, 1] + C2)
    below = (mean_a**2 + mean_b**2 + C1) * (covariance[0, 0] + covariance[1, 1] + C2)
    assert ssim(raster(a), raster(b)) == pytest.approx(above / below)
    assert sum(LUMINANCE) == pytest.approx(1.0)


def test_unrelated_noise_is_not_alike_and_a_small_change_is() -> None:
    one = noise(4, 32)
    assert ssim(raster(one), raster(noise(5, 32))) < 0.2
    near = np.clip(one + np.random.default_rng(6).integers(-2, 3, one.shape), 0, 255)
    assert ssim(raster(one), raster(near)) > 0.99


@settings(max_examples=30, deadline=None, database=None)
@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(1, 20))
def test_likeness_is_symmetric_and_within_its_bounds(seed: int, other: int, side: int) -> None:
    a, b = raster(noise(seed, side)), raster(noise(other, side))
    assert ssim(a, b) == pytest.approx(ssim(b, a)) and -1.0 <= ssim(a, b) <= 1.0 + 1e-9
    assert psnr(a, b) == psnr(b, a) <= MOST_PSNR


def test_latents_are_as_far_apart_as_their_difference_is_long() -> None:
    one, other = np.array([3.0, 4.0], np.float32), np.array([3.0, 2.0], np.float32)
    assert distance(one, other) == pytest.approx(2 / 5)
    assert distance(np.zeros(2, np.float32), other) == 0
