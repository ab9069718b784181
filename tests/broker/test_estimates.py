"""What is expected of loads and runs: measured where it was, derived by the stated formula where it was not."""

from __future__ import annotations

import msgspec
import pytest
from room import model

from broker.core import figures as e
from broker.core.estimates import MOST_MODELS, Estimates
from broker.core.figures import Figures, Shape
from protocol.enums import LoadSource, ModelType, Tier
from protocol.link import ProfileFigures, RunFacts

MIB, GIB = 1 << 20, 1 << 30
BIG = model("big", size_bytes=4 * GIB, type=ModelType.SDXL)
SQUARE = Shape("generate", 512, 512, 10, 1)


def figures(estimates: Estimates | None = None, make: str = "cpu") -> Figures:
    return (estimates or Estimates()).of(BIG, make)


def learn(estimates: Estimates, shape: Shape = SQUARE, make: str = "cpu", **facts: object) -> None:
    estimates.learn(BIG, make, shape, RunFacts(**facts), 0.0)  # type: ignore[arg-type]


def test_a_load_nobody_measured_takes_its_bytes_by_the_rate_of_its_tier() -> None:
    assert figures().load_ms(Tier.DISK) == e.OVERHEAD_MS + BIG.size_bytes / e.READ_RATES["cpu"]
    assert figures().load_ms(Tier.RAM) == e.OVERHEAD_MS + BIG.size_bytes / e.PROMOTE_RATES["cpu"]
    assert figures().load_ms(Tier.VRAM) == 0
    assert figures().load_samples(Tier.DISK) == 0


def test_a_measured_load_counts_for_its_own_tier_alone() -> None:
    estimates = Estimates()
    learn(estimates, load_ms=900.0, source=LoadSource.DISK)
    assert figures(estimates).load_ms(Tier.DISK) == 900
    assert figures(estimates).load_samples(Tier.DISK) == 1
    assert figures(estimates).load_samples(Tier.RAM) == 0


def test_a_load_of_what_was_resident_teaches_nothing() -> None:
    estimates = Estimates()
    learn(estimates, load_ms=0.1, source=LoadSource.VRAM)
    assert figures(estimates).load_samples(Tier.DISK) == 0


def test_the_newest_measurement_weighs_most_but_not_all() -> None:
    estimates = Estimates()
    for load_ms in [1000.0] * 20 + [2000.0]:
        learn(estimates, load_ms=load_ms, source=LoadSource.DISK)
    assert figures(estimates).load_ms(Tier.DISK) == pytest.approx(1000 + e.WEIGHT * 1000)


def test_measured_loads_of_one_model_tell_the_makes_rate_for_another() -> None:
    estimates = Estimates()
    learn(estimates, load_ms=4000.0 + e.OVERHEAD_MS, source=LoadSource.DISK)
    other = estimates.of(model("other", size_bytes=GIB), "cpu")
    assert other.load_ms(Tier.DISK) == pytest.approx(1000.0 + e.OVERHEAD_MS)
    elsewhere = estimates.of(model("other", size_bytes=GIB), "cuda NVIDIA H200")
    assert elsewhere.load_ms(Tier.DISK) == e.OVERHEAD_MS + GIB / e.READ_RATES["cuda"]


def test_a_measured_shape_is_expected_to_take_what_it_took() -> None:
    estimates = Estimates()
    learn(estimates, run_ms=700.0, images=1, steps=10, width=512, height=512)
    assert figures(estimates).run_ms(SQUARE) == 700
    assert figures(estimates).run_samples(SQUARE) == 1


def test_another_shape_takes_steps_times_pixels_times_images_of_it() -> None:
    estimates = Estimates()
    learn(estimates, run_ms=700.0, images=1, steps=10, width=512, height=512)
    wanted = Shape("generate", 1024, 512, 30, 2)
    assert figures(estimates).run_ms(wanted) == pytest.approx(700 * 2 * 3 * 2)
    assert figures(estimates).run_samples(wanted) == 0


def test_the_models_own_defaults_are_learned_from_runs_that_name_none() -> None:
    estimates = Estimates()
    learn(estimates, Shape("generate"), run_ms=1000.0, images=1, steps=20, width=1024, height=1024)
    assert figures(estimates).run_ms(Shape("generate", steps=40)) == pytest.approx(2000)


def test_a_peak_is_weights_until_measured_and_grows_with_the_pixels() -> None:
    estimates = Estimates()
    assert figures(estimates).peak_bytes(SQUARE) == BIG.size_bytes
    learn(estimates, weights_bytes=2 * GIB, peak_bytes=3 * GIB, run_ms=1.0, steps=10, width=512, height=512)
    now = figures(estimates)
    assert now.weights_bytes == 2 * GIB
    assert now.peak_bytes(SQUARE) == 3 * GIB
    assert now.peak_bytes(Shape("generate", 1024, 1024, 10, 1)) == 2 * GIB + 4 * GIB
    assert now.peak_bytes(Shape("generate", 256, 256, 10, 1)) == 3 * GIB
    assert now.peak_bytes(Shape("load_model")) == 2 * GIB


def test_a_peak_rises_at_once_and_falls_slowly() -> None:
    estimates = Estimates()
    for peak in (5 * GIB, 8 * GIB):
        learn(estimates, run_ms=1.0, peak_bytes=peak)
    assert figures(estimates).peak_bytes(SQUARE) == 8 * GIB
    learn(estimates, run_ms=1.0, peak_bytes=6 * GIB)
    assert 6 * GIB < figures(estimates).peak_bytes(SQUARE) < 8 * GIB


def test_a_profile_says_its_own_figures() -> None:
    profile = model("v", size_bytes=GIB, profile=ProfileFigures(load_ms=500.0, step_ms=7.0, peak_bytes=GIB + MIB))
    one = Estimates().of(profile, "virtual")
    assert (one.load_ms(Tier.DISK), one.load_ms(Tier.RAM)) == (500, 50)
    assert one.run_ms(Shape("generate", steps=10)) == 70
    assert one.run_ms(Shape("generate")) == 7 * e.PROFILE_STEPS
    assert one.peak_bytes(Shape("generate")) == one.certain_bytes(Shape("generate")) == GIB + MIB
    assert one.certain_bytes(Shape("load_model")) == GIB


def test_nothing_measured_is_certain_but_a_profile_is() -> None:
    estimates = Estimates()
    learn(estimates, run_ms=1.0, peak_bytes=9 * GIB)
    assert figures(estimates).certain_bytes(SQUARE) == 0


def test_an_outlook_follows_what_is_learned() -> None:
    estimates = Estimates()
    before = figures(estimates).outlook(SQUARE)
    learn(estimates, run_ms=123.0, steps=10, width=512, height=512)
    assert figures(estimates).outlook(SQUARE).run_ms == 123 != before.run_ms


def test_an_outlook_follows_the_rates_that_others_taught() -> None:
    estimates = Estimates()
    other = estimates.of(model("other", size_bytes=GIB), "cpu")
    before = other.outlook(SQUARE).disk_ms
    learn(estimates, load_ms=400_000.0, source=LoadSource.DISK)
    assert other.outlook(SQUARE).disk_ms > before


def test_what_was_learned_survives_as_bytes() -> None:
    estimates = Estimates()
    assert not estimates.changed
    learn(estimates, load_ms=900.0, source=LoadSource.DISK, weights_bytes=GIB)
    learn(estimates, run_ms=700.0, images=1, peak_bytes=3 * GIB, steps=10, width=512, height=512)
    assert estimates.changed
    again = Estimates(estimates.encode())
    assert not estimates.changed
    assert figures(again).load_ms(Tier.DISK) == 900
    assert figures(again).run_ms(SQUARE) == 700
    assert figures(again).peak_bytes(SQUARE) == 3 * GIB
    assert figures(again).weights_bytes == GIB


def test_a_model_of_another_size_under_the_same_id_is_learned_anew() -> None:
    estimates = Estimates()
    learn(estimates, load_ms=900.0, source=LoadSource.DISK)
    other = estimates.of(model("big", size_bytes=BIG.size_bytes + 1), "cpu")
    assert other.load_samples(Tier.DISK) == 0


@pytest.mark.parametrize("data", [b"nonsense", b"\x93\x01\x02\x03", b"\x00", b"\x81\xa7version\x02"])
def test_broken_bytes_raise_one_error(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, ValueError)):
        Estimates(data)


def test_what_is_remembered_is_bounded() -> None:
    estimates = Estimates()
    for number in range(MOST_MODELS + 10):
        estimates.of(model(f"m{number}"), "cpu")
    for width in range(8, 8 * (e.MOST_SHAPES + 10), 8):
        learn(estimates, Shape("generate", width, 512, 10, 1), run_ms=1.0)
    assert len(estimates.encode()) < 100_000
    assert len(figures(estimates).measured.runs) == e.MOST_SHAPES


def test_an_outlook_follows_many_small_changes_too() -> None:
    estimates = Estimates()
    run_ms = 100.0
    for _ in range(200):
        run_ms *= 1.01
        learn(estimates, run_ms=run_ms, steps=10, width=512, height=512)
        outlook = figures(estimates).outlook(SQUARE)
    assert outlook.run_ms == pytest.approx(figures(estimates).run_ms(SQUARE), rel=0.2)
