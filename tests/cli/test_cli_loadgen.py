"""`vrambroker loadgen`: options become a scenario, a run becomes files and an exit status."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from router import Router

from cli.generating import scenario_of
from cli.screens.load import compared_view, live_view, report_view
from cli.terminal import Terminal
from loadgen.comparing import compare, read_report
from loadgen.messages import Progress
from loadgen.scenario import Arrival

Run = Callable[..., subprocess.CompletedProcess[str]]
SHORT = ("--seconds", "0.5", "--warm-up", "0", "--mix", "list_devices=3", "--mix", "list_models")


def test_a_run_is_shown_written_and_passes(broker: Router, vrambroker: Run, tmp_path: Path) -> None:
    words = ("loadgen", "run", "--rate", "40,80", *SHORT, "-o", str(tmp_path / "out"), "--threshold", "failed<1%")
    done = vrambroker("-e", broker.endpoint, *words, columns=120)
    assert done.returncode == 0, done.stderr
    for part in ("passed completed", "list_devices", "held", "report.html", "P99.9"):
        assert part in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["schema"] == 1 and len(report["stages"]) == 2 and report["outcomes"]["failed"] == 0
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()


def test_a_broken_threshold_exits_1(broker: Router, vrambroker: Run) -> None:
    words = ("loadgen", "run", "-c", "2", *SHORT, "--threshold", "p50<0.000001ms", "--json")
    done = vrambroker("-e", broker.endpoint, *words)
    assert done.returncode == 1
    assert json.loads(done.stdout)["thresholds"][0]["passed"] is False


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "fast"), "'fast' is no number"),
        (("--mix", "genrate"), "did you mean generate?"),
        (("--mix", "generate=much"), "is no weight"),
        (("--threshold", "slow"), "thresholds has 'slow'"),
        (("--arrival", "never"), "never"),
        (("--cancel", "2"), "cancel_share is 2"),
        (("-o", "/proc/nowhere"), "cannot be written"),
        (("none.json",), "none.json"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error_with_its_name(
    broker: Router, vrambroker: Run, words: tuple[str, ...], said: str
) -> None:
    done = vrambroker("-e", broker.endpoint, "loadgen", "run", *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert said in " ".join(done.stderr.split())


def test_no_broker_is_status_3(vrambroker: Run) -> None:
    assert vrambroker("-e", "tcp://127.0.0.1:1", "loadgen", "run", *SHORT).returncode == 3


def test_two_reports_are_compared(broker: Router, vrambroker: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        vrambroker("-e", broker.endpoint, "loadgen", "run", "-c", "1", *SHORT, "-o", str(tmp_path / name))
    files = [str(tmp_path / name / "report.json") for name in ("a", "b")]
    done = vrambroker("loadgen", "compare", *files, columns=120)
    assert done.returncode == 0 and "list_devices latency p99" in done.stdout
    assert json.loads(vrambroker("loadgen", "compare", *files, "--json").stdout)
    assert vrambroker("loadgen", "compare", files[0], str(tmp_path / "none")).returncode == 2
    first, second = (read_report(Path(file)) for file in files)
    for width in (40, 80, 200):
        Terminal(width=width).print(report_view(first, None), compared_view(compare(first, second)))


def test_options_become_a_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = scenario_of(
        None,
        rates="5,10",
        levels="3",
        seconds=2.0,
        mix=["generate=2", "ping"],
        fields={"steps": 4},
        settings={"models": ["m"], "arrival": "gamma", "zipf": 0.5},
    )
    assert [(stage.rate, stage.concurrency) for stage in scenario.stages] == [(5.0, 0), (10.0, 0), (0.0, 3)]
    assert scenario.mix[0].fields == {"prompt": "a boat", "steps": 4} and scenario.mix[1].fields == {}
    assert scenario.arrival is Arrival.GAMMA
    standing = Progress(elapsed=1.0, stage=0, sent=5, completed=4, failed=0, in_flight=1, lag_ms=0.1)
    Terminal(width=80).print(live_view(scenario, [standing, standing]))
    shown = capsys.readouterr().out
    assert "stage 1 of 3, 5/s" in shown and "10" in shown
