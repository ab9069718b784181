"""A leak of a megabyte a minute is found in noise, and noise is not taken for one; a verdict says what it saw."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections import Counter
from datetime import UTC, datetime

import pytest

from soak.ledger import Entry, Ledger, Outcome
from soak.plan import FAULTY_SHARE, Fault, schedule
from soak.samples import DeviceSample, Sample, role_of
from soak.slopes import calm, slope, student
from soak.verdict import Check, Recovery, Verdict, checks_of, junit

MIB = 1 << 20
STEADY = 240.0
END = 600.0


def curve(a_minute: float, *, noise: float = 8.0, seed: int = 1) -> list[tuple[float, float]]:
    """A process of 300 MiB that grows by so much, with work that comes and goes on top."""
    rng = random.Random(seed)
    return [
        (at, (300 + a_minute * at / 60 + abs(rng.gauss(0, noise)) + (60 if rng.random() < 0.4 else 0)) * MIB)
        for at in (STEADY + second for second in range(int(END - STEADY)))
    ]


@pytest.mark.parametrize("seed", range(5))
def test_a_megabyte_a_minute_is_found_in_the_noise_of_work(seed: int) -> None:
    found = slope(curve(1.0, seed=seed))
    assert found is not None and found.low > 0.5 * MIB and found.low <= MIB <= found.high * 1.2


@pytest.mark.parametrize("seed", range(20))
def test_what_does_not_grow_is_not_said_to(seed: int) -> None:
    found = slope(curve(0.0, seed=seed))
    assert found is not None and found.low < 0.5 * MIB


def test_caches_that_fill_and_stay_are_no_leak() -> None:
    filling = [(at, value + min(at - STEADY, 60) * MIB) for at, value in curve(0.0)]
    found = slope(filling)
    assert found is not None and found.low < 0.5 * MIB


def test_too_short_a_curve_says_nothing() -> None:
    assert slope([]) is None and slope(curve(1.0)[:30]) is None
    assert calm([]) == []


def test_the_slope_is_that_of_least_squares() -> None:
    found = slope([(float(at), 5.0 * at) for at in range(400)])
    assert found is not None
    assert found.per_minute == pytest.approx(300) and found.low == pytest.approx(300) and student(8) == 2.31


def samples(a_minute: float = 0.0, role: str = "broker", threads: int = 5) -> list[Sample]:
    return [
        Sample(at=at, role=role, life="1/1", resident_bytes=int(value), descriptors=20, threads=threads)
        for at, value in curve(a_minute)
    ]


def worked() -> Ledger:
    made = Ledger()
    for number in range(20):
        made.sent(Entry(request_id=f"r{number}", action="generate", sent_at=0.0))
        made.answered(f"r{number}", Outcome("completed", "", 1, ()), 1.0)
    return made


def broken(
    ledger: Ledger | None = None,
    seen: list[Sample] | None = None,
    recoveries: tuple[Recovery, ...] = (),
    *,
    depth: int = 0,
) -> set[str]:
    devices = [DeviceSample(at=END, device_id="cpu:0", used_bytes=0, queue_depth=depth)]
    found = checks_of(
        worked() if ledger is None else ledger,
        samples() if seen is None else seen,
        devices,
        recoveries,
        steady_from=STEADY,
    )
    return {check.name for check in found if not check.passed}


def test_a_clean_run_keeps_every_promise() -> None:
    assert broken() == set()


def test_each_planted_fault_breaks_its_own_promise() -> None:
    assert broken(seen=samples(1.0) + samples(0.0, "web")) == {"no process's memory grows"}
    growing = [
        Sample(at=one.at, role="broker", life="1/1", resident_bytes=1, descriptors=20 + int(one.at / 10), threads=5)
        for one in samples()
    ]
    assert broken(seen=growing) == {"no process's descriptors grow"}
    lost = worked()
    lost.sent(Entry(request_id="x", action="generate", sent_at=0.0))
    lost.close()
    assert broken(lost) == {"every command was answered"}
    doubled = worked()
    doubled.answered("r1", Outcome("completed", "", 1, ()), 2.0)
    assert broken(doubled) == {"no command ran twice"}
    assert broken(Ledger()) == {"work was done"}
    assert broken(recoveries=(Recovery(at=1.0, role="worker cpu:0", seconds=None),)) == {"what was killed came back"}
    assert broken(recoveries=(Recovery(at=1.0, role="broker", seconds=2.0),)) == set()
    assert broken(depth=3) == {"nothing waits at the end"}


def test_a_run_too_short_to_see_a_slope_does_not_pass() -> None:
    assert "no process's memory grows" in broken(seen=samples()[:20])


def test_lives_of_a_role_are_not_one_curve() -> None:
    first = [Sample(at=s.at, role="w", life="1/1", resident_bytes=100, descriptors=1, threads=1) for s in samples()]
    later = [
        Sample(at=END + at, role="w", life="2/2", resident_bytes=900 * MIB, descriptors=90, threads=90)
        for at in range(5)
    ]
    assert broken(seen=first + later) == set()


def test_junit_has_a_case_for_each_promise() -> None:
    checks = [
        Check(name="kept <one>", passed=True, text="fine"),
        Check(name="broken", passed=False, text='lost "x" & y'),
    ]
    verdict = Verdict(
        started_at=datetime.now(UTC),
        minutes=1.0,
        seed=1,
        ended="completed",
        passed=False,
        checks=checks,
        counts={},
        errors={},
        faults={},
        recoveries=[],
    )
    suite = ET.fromstring(junit(verdict).encode())
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None and failure.text == 'lost "x" & y'


def test_faults_come_from_the_seed_in_their_part_of_the_run_each_kind_once_at_least() -> None:
    planned = schedule(600.0, 6.0, seed=3)
    assert planned == schedule(600.0, 6.0, seed=3) != schedule(600.0, 6.0, seed=4)
    assert max(one.at for one in planned) < 600.0 * FAULTY_SHARE
    assert {one.fault for one in planned} == set(Fault)
    assert Counter(one.fault for one in planned)[Fault.KILL_WORKER] >= 1
    assert schedule(30.0, 6.0, seed=1)


def test_a_process_has_the_role_that_its_command_line_shows() -> None:
    assert role_of(["python", "-P", "-m", "worker", '{"device_id":"cpu:0","link":""}']) == "worker cpu:0"
    assert role_of(["python", "-P", "-m", "web", "{}"]) == "web"
    assert role_of(["sh"]) == "other"
