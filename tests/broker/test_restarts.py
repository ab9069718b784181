"""When a process that ended is started again."""

from __future__ import annotations

import pytest

from broker.restarts import FIRST_WAIT_SECONDS, RestartPolicy
from settings.file import RestartLimits

LIMITS = RestartLimits(failures=8, window_seconds=100.0, longest_wait_seconds=4.0)


def even() -> float:
    """The middle of the jitter."""
    return 0.5


def test_what_had_served_is_restarted_at_once_however_often() -> None:
    policy = RestartPolicy(even, LIMITS)
    assert [policy.wait_seconds(0.0, served=True) for _ in range(100)] == [0.0] * 100


def test_failures_wait_twice_as_long_each_time_up_to_the_longest_then_the_breaker_opens() -> None:
    policy = RestartPolicy(even, LIMITS)
    waits = [policy.wait_seconds(0.0, served=False) for _ in range(LIMITS.failures)]
    assert waits == [FIRST_WAIT_SECONDS * 2**n for n in range(5)] + [4.0, 4.0, None]
    assert policy.failures == LIMITS.failures


@pytest.mark.parametrize(("random", "factor"), [(0.0, 0.75), (1.0, 1.25)])
def test_waits_are_jittered_by_a_quarter(random: float, factor: float) -> None:
    assert RestartPolicy(lambda: random).wait_seconds(0.0, served=False) == FIRST_WAIT_SECONDS * factor


def test_a_life_that_served_forgives_the_failures_before_it() -> None:
    policy = RestartPolicy(even, LIMITS)
    for _ in range(LIMITS.failures - 1):
        policy.wait_seconds(0.0, served=False)
    assert policy.wait_seconds(0.0, served=True) == 0.0
    assert policy.wait_seconds(0.0, served=False) == FIRST_WAIT_SECONDS


def test_failures_outside_the_window_do_not_count() -> None:
    policy = RestartPolicy(even, LIMITS)
    for turn in range(50):
        assert policy.wait_seconds(turn * (LIMITS.window_seconds + 1), served=False) == FIRST_WAIT_SECONDS


def test_closing_the_breaker_forgets_every_failure() -> None:
    policy = RestartPolicy(even, LIMITS)
    while policy.wait_seconds(0.0, served=False) is not None:
        pass
    policy.close()
    assert policy.wait_seconds(0.0, served=False) == FIRST_WAIT_SECONDS


def test_what_may_not_be_given_up_waits_for_the_longest_time_for_ever() -> None:
    policy = RestartPolicy(even, LIMITS, never_gives_up=True)
    assert [policy.wait_seconds(0.0, served=False) for _ in range(2000)][-1] == LIMITS.longest_wait_seconds
