"""A run against an echo: nothing is lost, times are as a client would have had them, what goes wrong is reported."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram

from loadgen.report import Report
from loadgen.running import run
from loadgen.scenario import Arrival, Kind, Scenario, Stage, checked
from tests.loadgen.echo import Echo, well

MIX = [Kind(action="list_devices")]


def scenario(*stages: Stage, **fields: Any) -> Scenario:
    return checked(
        Scenario(**{"stages": list(stages), "mix": MIX, "probe_hz": 0.0, "patience_seconds": 20.0, **fields})
    )


def slower_than(report: Report, name: str, seconds: float) -> int:
    """How many of a histogram's values are above."""
    histogram = HdrHistogram.decode(report.histograms[name])
    steps = histogram.get_recorded_iterator()
    return sum(step.count_added_in_this_iter_step for step in steps if step.value_iterated_to > seconds * 1e6)


def test_every_command_is_sent_once_and_answered() -> None:
    with Echo() as echo:
        found = run(echo.endpoint, scenario(Stage(seconds=1.0, rate=200.0), processes=2, clients=4))
    ids = Counter(command["request_id"] for command in echo.seen)
    assert set(ids.values()) == {1} and len(ids) == found.outcomes["completed"]
    assert found.ended == "completed" and found.outcomes["dropped"] == found.outcomes["timed_out"] == 0
    assert len(echo.clients) == 4
    assert found.commands["list_devices"].queue is not None and found.devices == {"cpu:0": 1.0}


def test_two_runs_have_no_id_in_common() -> None:
    with Echo() as echo:
        for _ in range(2):
            run(echo.endpoint, scenario(Stage(seconds=0.2, rate=100.0)))
    ids = [command["request_id"] for command in echo.seen]
    assert len(set(ids)) == len(ids)


def test_a_stall_shows_in_the_percentiles_as_it_would_to_clients() -> None:
    with Echo() as echo:
        echo.stall(after=50, seconds=1.0)
        stage = Stage(seconds=3.0, rate=100.0)
        found = run(echo.endpoint, scenario(stage, arrival=Arrival.UNIFORM))
    # Half of the stall's hundred commands waited for half a second and more; however slow this machine is, no fewer.
    assert slower_than(found, "list_devices.latency", 0.5) >= 45
    assert found.commands["list_devices"].latency is not None
    assert found.commands["list_devices"].latency.max >= 950


def test_a_closed_loop_has_no_more_under_way_than_it_may() -> None:
    under_way = most = 0
    lock = threading.Lock()

    def answer(command: dict[str, Any]) -> dict[str, Any]:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            under_way -= 1
        return well(command)

    with Echo(answer) as echo:
        echo.stall(after=1, seconds=0.5)
        found = run(echo.endpoint, scenario(Stage(seconds=1.0, concurrency=3), Stage(seconds=0.5, concurrency=1)))
    assert found.stages[0].concurrency == 3 and found.outcomes["completed"] > 10
    assert most <= 3


def test_failures_cancels_and_silence_are_told_apart() -> None:
    def answer(command: dict[str, Any]) -> dict[str, Any] | None:
        number = int(command["request_id"].rpartition("-")[2])
        if command["action"] == "cancel" or number % 4 == 3:
            return None
        if number % 4 == 0:
            error = {"code": "QUEUE_FULL", "message": "full"}
            return {**well(command), "success": False, "state": "failed", "error": error}
        return well(command) if number % 4 == 1 else {**well(command), "success": False, "state": "cancelled"}

    with Echo(answer) as echo:
        found = run(echo.endpoint, scenario(Stage(seconds=1.0, rate=100.0), patience_seconds=0.5, cancel_share=0.2))
    assert all(found.outcomes[name] > 10 for name in ("completed", "failed", "cancelled", "timed_out"))
    assert found.errors["QUEUE_FULL"] == found.outcomes["failed"] and found.examples["QUEUE_FULL"] == "full"
    assert sum(found.outcomes.values()) == sum(command["action"] != "cancel" for command in echo.seen)


def test_a_warm_up_counts_for_nothing() -> None:
    with Echo() as echo:
        found = run(echo.endpoint, scenario(Stage(seconds=0.5, rate=100.0), warm_up_seconds=0.5))
    assert 0 < found.outcomes["completed"] < len(echo.seen)


def test_clients_are_replaced_after_so_many_commands() -> None:
    with Echo() as echo:
        run(echo.endpoint, scenario(Stage(seconds=1.0, rate=100.0), clients=2, churn_commands=10))
    assert len(echo.clients) > 4


def test_a_broker_that_goes_away_leaves_a_report() -> None:
    with Echo() as echo:
        ended = threading.Timer(0.5, echo.__exit__)
        ended.start()
        found = run(echo.endpoint, scenario(Stage(seconds=1.5, rate=50.0), patience_seconds=0.5))
        ended.join()
        echo._thread = threading.Thread()  # it is gone already: nothing is left to join
        echo._thread.start()
    assert found.outcomes["completed"] > 0 and found.outcomes["timed_out"] > 0


def test_an_interrupt_ends_the_run_with_a_report() -> None:
    main = threading.main_thread()
    with Echo() as echo:
        timer = threading.Timer(1.0, signal.pthread_kill, [main.ident, signal.SIGINT])
        timer.start()
        found = run(echo.endpoint, scenario(Stage(seconds=30.0, rate=50.0)))
        timer.join()
    assert found.ended == "interrupted" and 0 < found.outcomes["completed"] < 30 * 50


def test_a_ping_runs_beside_the_load() -> None:
    with Echo() as echo:
        found = run(echo.endpoint, scenario(Stage(seconds=1.0, rate=20.0), probe_hz=20.0))
    assert found.probe is not None and found.probe.count >= 5
    assert found.lag is not None and found.lag.count == len(echo.seen)


@pytest.mark.parametrize("missing", ["generate.p99<1ms"])
def test_a_threshold_about_what_was_not_asked_is_broken(missing: str) -> None:
    with Echo() as echo:
        found = run(echo.endpoint, scenario(Stage(seconds=0.2, rate=50.0), thresholds=[missing]))
    assert not found.passed
