"""Open files: kept back from clients before the system's limit is reached, and given again."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

from broker.descriptors import LOOK_SECONDS, MOST, Descriptors, count

ROOT = Path(__file__).parents[2]


class Listeners:
    def __init__(self) -> None:
        self.said: list[bool] = []

    def listen(self, on: bool) -> None:
        self.said.append(on)


def test_at_the_bound_the_endpoints_stop_listening_and_below_it_they_listen_again() -> None:
    listeners = Listeners()
    descriptors = Descriptors(listeners, limit=count() + 200)
    descriptors.look(0.0)
    assert listeners.said == []
    held = [os.open(os.devnull, os.O_RDONLY)]
    while held[-1] < descriptors.bound:
        held.append(os.open(os.devnull, os.O_RDONLY))
    descriptors.look(1.0)
    assert listeners.said == [False] and descriptors.patience_seconds == LOOK_SECONDS
    for descriptor in held:
        os.close(descriptor)
    descriptors.look(2.0)
    assert listeners.said == [False, True]


def test_without_a_limit_there_is_a_bound_all_the_same() -> None:
    listeners = Listeners()
    descriptors = Descriptors(listeners, limit=resource.RLIM_INFINITY)
    descriptors.look(0.0)
    assert listeners.said == [] and 0 < descriptors.bound < MOST


def test_looks_are_rare() -> None:
    listeners = Listeners()
    descriptors = Descriptors(listeners, limit=0)
    for step in range(10):
        descriptors.look(step * LOOK_SECONDS / 20)
    assert listeners.said == [False]


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    script = "from broker.descriptors import raise_limit; print(raise_limit())"
    command = ["sh", "-c", 'ulimit -Sn 100; ulimit -Hn 300; exec "$0" -P -c "$1"', sys.executable, script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "300"
