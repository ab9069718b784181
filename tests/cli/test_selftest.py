"""The self-test: true of devices that are well, and of a check that finds something wrong; nothing is left running."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cli.selftest import checks
from cli.selftest.checks import CHECKS, Finding, Wrong
from cli.selftest.private import PrivateBroker, PrivateError
from client.answers import CommandFailed
from protocol.enums import DeviceKind
from protocol.errors import ErrorCode, ErrorInfo

ROOT = Path(__file__).parents[2]


def selftest(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "cli.main", "selftest", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


@pytest.mark.parametrize("device", ["virtual", "cpu"])
def test_a_device_that_is_well_passes_every_check(device: str) -> None:
    done = selftest("--device", device, "--json")
    verdict = msgspec.json.decode(done.stdout)
    wrong = [one for one in verdict["findings"] if not one["passed"]]
    assert (done.returncode, verdict["passed"], wrong) == (0, True, []), done.stderr
    assert [one["check"] for one in verdict["findings"]] == list(CHECKS)
    assert verdict["schema"] == 1 and all(one["ms"] >= 0 and one["text"] for one in verdict["findings"])


def test_a_device_that_there_is_not_fails_with_what_the_log_says() -> None:
    done = selftest("--device", "cuda:77")
    assert done.returncode == 1 and "FAIL" in done.stdout + done.stderr and "cuda:77 failed: start" in done.stdout


def test_another_kind_of_device_is_a_mistake_of_usage() -> None:
    done = selftest("--device", "tpu")
    assert done.returncode == 2 and "tpu" in done.stderr


def carried_out(check: Any) -> Finding:
    return checks._carried_out("it", check, None)  # type: ignore[arg-type]


def test_what_is_wrong_fails_its_check_alone() -> None:
    def wrong(_: object) -> str:
        raise Wrong("7 bytes did not come back")

    def broken(_: object) -> str:
        raise ZeroDivisionError("by zero")

    assert carried_out(lambda _: "well").passed
    assert (carried_out(wrong).passed, carried_out(wrong).text) == (False, "7 bytes did not come back")
    assert "ZeroDivisionError" in carried_out(broken).text and not carried_out(broken).passed


def test_a_device_that_keeps_bytes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([1000, 1500, 1007])
    monkeypatch.setattr(checks, "_used", lambda _: next(readings))
    monkeypatch.setattr(checks, "_load", lambda *_, **__: _Reply(memory_usage=500))
    broker: Any = _Broker(unload=_Reply(memory_freed=500))
    with pytest.raises(Wrong, match="7 bytes did not come back"):
        checks.exact_return(broker)


def test_a_picture_that_differs_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = iter([b"one", b"two"])
    monkeypatch.setattr(checks, "_picture", lambda *_, **__: next(drawn))
    with pytest.raises(Wrong, match="two pictures"):
        checks.pictures(_Broker())  # type: ignore[arg-type]


def test_an_option_that_claims_what_it_does_not_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = _Reply(requested="Int8", applied=True, evidence={"bytes_after": 1}, reason=None)
    monkeypatch.setattr(checks, "_picture", lambda *_, **__: b"one")
    monkeypatch.setattr(checks, "_load", lambda *_, **__: _Reply(memory_usage=500, options=[outcome]))
    with pytest.raises(Wrong, match="saves nothing"):
        checks.options(_Broker())  # type: ignore[arg-type]


def test_a_failed_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    info = ErrorInfo(code=ErrorCode.WORKER_LOST, message="the worker died", retryable=True)

    def failing(*_: object, **__: object) -> None:
        reply = _Reply(error=info, message="")
        raise CommandFailed(_Reply(reply=reply))  # type: ignore[arg-type]

    monkeypatch.setattr(checks, "_picture", failing)
    found = carried_out(checks.pictures)
    assert not found.passed and "the worker died" in found.text


def test_a_broker_that_cannot_start_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrivateBroker, "_make_model", lambda *_: (_ for _ in ()).throw(PrivateError("no model")))
    broker = PrivateBroker("virtual")
    with pytest.raises(PrivateError, match="no model"):
        broker.__enter__()
    assert not broker.log.parent.exists()


class _Reply:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class _Broker:
    """A broker whose device is a cpu device and whose answers are given."""

    model = "m"

    def __init__(self, **answers: Any) -> None:
        self.device = _Reply(kind=DeviceKind.CPU)
        self.client = _Reply(**{name: (lambda *_, answer=answer, **__: answer) for name, answer in answers.items()})
        self.client.__dict__.setdefault("unload", lambda *_, **__: _Reply(memory_freed=0))
