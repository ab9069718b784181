"""When a process that ended is started again."""

from __future__ import annotations

import pytest

from broker.restarts import FIRST_WAIT_SECONDS, GIVE_UP_AFTER, LONGEST_WAIT_SECONDS, YOUNG_SECONDS, RestartPolicy


def test_what_lived_is_restarted_at_once_however_often() -> None:
    policy = RestartPolicy(lambda: 0.5)
    assert [policy.wait_seconds(YOUNG_SECONDS) for _ in range(100)] == [0.0] * 100


def test_young_deaths_wait_twice_as_long_each_time_then_give_up() -> None:
    policy = RestartPolicy(lambda: 0.5)
    waits = [policy.wait_seconds(0.1) for _ in range(GIVE_UP_AFTER)]
    assert waits[:-1] == [min(FIRST_WAIT_SECONDS * 2**n, LONGEST_WAIT_SECONDS) for n in range(GIVE_UP_AFTER - 1)]
    assert waits[-1] is None


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.75), (1.0, 1.25)])
def test_waits_are_jittered_by_a_quarter(random: float, factor: float) -> None:
    assert RestartPolicy(lambda: random).wait_seconds(0.0) == FIRST_WAIT_SECONDS * factor


def test_one_long_life_forgives_the_young_deaths_before_it() -> None:
    policy = RestartPolicy(lambda: 0.5)
    for _ in range(GIVE_UP_AFTER - 1):
        policy.wait_seconds(0.0)
    assert policy.wait_seconds(YOUNG_SECONDS) == 0.0
    assert policy.wait_seconds(0.0) == FIRST_WAIT_SECONDS
