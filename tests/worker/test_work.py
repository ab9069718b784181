"""What a run is expected to need beside its weights."""

from __future__ import annotations

import pytest

from worker.work import MOST_SHAPES, Shape, Work, bytes_per_pixel


def shape(width: int | None = None, height: int | None = None, images: int = 1, scale: float | None = None) -> Shape:
    return Shape(width, height, images, begun=False, masked=False, controlled=False, guidance_scale=scale)


def test_before_any_run_it_follows_from_the_pixels_of_a_batch() -> None:
    work = Work(10.0, 8)
    assert work.expected(shape()) == 640
    assert work.expected(shape(16, 8, 3)) == 3840


def test_a_measured_shape_is_expected_as_it_was() -> None:
    work = Work(10.0, 8)
    work.note(shape(16, 16), 5)
    assert work.expected(shape(16, 16)) == work.measured(shape(16, 16)) == 5
    assert work.measured(shape(16, 16, scale=1.0)) is None


def test_another_shape_needs_the_least_that_those_measured_let_expect() -> None:
    work = Work(10.0, 8)
    work.note(shape(8, 8), 100)
    assert work.expected(shape(16, 16)) == 400
    assert work.expected(shape(4, 4)) == 100
    work.note(shape(16, 8), 150)
    assert work.expected(shape(16, 16)) == 300


def test_the_shape_measured_longest_ago_is_forgotten() -> None:
    work = Work(10.0, 8)
    for number in range(MOST_SHAPES):
        work.note(shape(scale=float(number)), 5)
    assert work.measured(shape(scale=0.0)) == 5
    work.note(shape(scale=-1.0), 5)
    assert work.measured(shape(scale=0.0)) is None and work.measured(shape(scale=1.0)) == 5


def test_less_than_the_weights_is_nothing() -> None:
    work = Work(10.0, 8)
    work.note(shape(), -1)
    assert work.expected(shape()) == 0


@pytest.mark.parametrize(
    ("value_bytes", "config", "expected"),
    [
        (2, {"block_out_channels": [128, 256]}, 2800.0),
        (4, {"block_out_channels": [128, 256]}, 5600.0),
        (2, {"block_out_channels": [16, 32]}, 350.0),
        (2, {"base_dim": 96}, 2800.0),
        (2, {}, 2800.0),
    ],
)
def test_a_familys_figure_is_for_its_width_in_half_precision(
    value_bytes: int, config: dict[str, object], expected: float
) -> None:
    assert bytes_per_pixel(2800, value_bytes, config) == expected
