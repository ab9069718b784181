"""The order in which models leave a device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.enums import LoadPriority
from protocol.leaving import Standing, leaving_order

LOW, NORMAL, HIGH = LoadPriority.Low, LoadPriority.Normal, LoadPriority.High


def order(**standings: Standing) -> str:
    return "".join(leaving_order(standings, standings.__getitem__))


def test_lower_priority_goes_first_whatever_its_reload_costs() -> None:
    found = order(a=Standing(HIGH, 1, 10, 1), b=Standing(LOW, 1000, 10, 9), c=Standing(NORMAL, 5, 10, 5))
    assert found == "bca"


def test_what_is_cheaper_to_bring_back_per_byte_goes_before_what_was_used_less_recently() -> None:
    assert order(a=Standing(NORMAL, 100, 10, 1), b=Standing(NORMAL, 100, 100, 9)) == "ba"


@pytest.mark.parametrize(("reload_ms", "expected"), [(100.0, "ab"), (120.0, "ab"), (120.1, "ba")])
def test_reloads_within_a_fifth_count_as_equal(reload_ms: float, expected: str) -> None:
    assert order(a=Standing(NORMAL, reload_ms, 10, 1), b=Standing(NORMAL, 100.0, 10, 2)) == expected


def test_equal_is_meant_of_the_cheapest_that_is_left() -> None:
    """100, 118 and 140: the first two are equal, and so are the last two once the first is gone."""
    found = order(a=Standing(NORMAL, 140.0, 10, 1), b=Standing(NORMAL, 118.0, 10, 2), c=Standing(NORMAL, 100.0, 10, 3))
    assert found == "bca"


def test_a_model_without_bytes_is_no_error() -> None:
    assert order(a=Standing(NORMAL, 0.0, 0, 1)) == "a"


@given(st.lists(st.tuples(st.sampled_from([LOW, NORMAL, HIGH]), st.floats(0, 1e9), st.integers(0, 1 << 40))))
def test_everybody_leaves_once_and_no_higher_priority_before_a_lower_one(
    found: list[tuple[LoadPriority, float, int]],
) -> None:
    standings = [Standing(*one, number) for number, one in enumerate(found)]
    left = leaving_order(standings, lambda one: one)
    assert sorted(left, key=lambda one: one.used) == standings
    assert [one.priority.ordinal for one in left] == sorted(one.priority.ordinal for one in standings)
