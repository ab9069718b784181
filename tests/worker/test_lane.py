"""The device's thread: what fails in it outside of commands, and errors after which its device is of no use."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from protocol import commands as c
from protocol.codec import decode_reply, encode_command
from protocol.enums import Encoding
from protocol.errors import ErrorCode, Fault
from protocol.replies import GenerateReply
from ramtier.tier import PrivateTier
from tests.worker.bench import assignment, model_ref, worker_spec
from worker import lane as lanes
from worker.__main__ import open_device
from worker.devices.cuda import poisoned_by
from worker.engine import Engine
from worker.job import Job
from worker.lane import DeviceLane
from worker.mailbox import Mailbox, Parcel

ONE = "one.vmodel.json"


class Rig:
    """A device thread with its mailbox, ended with the test."""

    def __init__(self, profiles: Path) -> None:
        self.profiles = profiles
        spec = worker_spec(profiles, "virtual:0")
        self.engine = Engine(spec, open_device(spec), print, ram=PrivateTier(spec.ram_budget_bytes))
        self.mailbox = Mailbox()
        self.lane = DeviceLane(self.engine, self.mailbox)
        self.parcels: list[Parcel] = []

    def submit(self, request_id: str = "r", **fields: Any) -> None:
        command = c.Generate(model_id=ONE, prompt="x", steps=1, **fields)
        job = Job(
            assignment(command, model_ref(self.profiles, ONE), request_id), encode_command(command, Encoding.JSON)
        )
        self.lane.submit(job)

    def final(self, request_id: str = "r") -> Parcel:
        """The last word on a command, once it is there."""
        found: list[Parcel] = []
        for _ in range(1000):
            self.parcels += self.mailbox.collect()
            found = [parcel for parcel in self.parcels if parcel.final == (request_id, 1)]
            if found:
                break
            threading.Event().wait(0.01)
        assert len(found) == 1
        return found[0]


@pytest.fixture
def rig(profiles: Path) -> Rig:
    return Rig(profiles)


def boom(*_: Any) -> None:
    raise RuntimeError("outside of any command")


def test_a_picture_is_delivered_whatever_fails_behind_it_and_the_next_one_too(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(rig.engine, "look_for_leaks", boom)
    rig.lane.start()
    for name in ("first", "second"):
        rig.submit(name)
        assert isinstance(decode_reply(rig.final(name).frames[1]), GenerateReply)
    assert not rig.engine.fatal


def test_a_thread_that_fails_without_end_ends_its_process_with_the_reason(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "BACKOFF_SECONDS", 0.0)
    monkeypatch.setattr(rig.lane, "_patience", boom)
    rig.lane.start()
    rig.lane.join(10)
    assert "outside of any command" in rig.engine.fatal


@pytest.mark.parametrize("keep_alive", [9.3e9, 922_337_203_685.4775, 1e300])
def test_a_keep_alive_of_any_size_is_no_wait_of_that_size(rig: Rig, keep_alive: float) -> None:
    rig.lane.start()
    rig.submit("first")
    rig.final("first")
    resident = rig.engine.cache.get(ONE)
    assert resident is not None
    resident.keep_alive_seconds = keep_alive
    rig.submit("second")
    rig.final("second")
    assert not rig.engine.fatal


def test_an_error_that_poisons_the_device_ends_the_worker_and_answers_nothing(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.engine.device, "poisoned_by", str)
    monkeypatch.setattr(rig.engine, "_dispatch", boom)
    rig.lane.start()
    rig.submit()
    rig.lane.join(10)
    assert rig.engine.fatal == "its device is of no use any more: outside of any command"
    assert not [parcel for parcel in rig.mailbox.collect() if parcel.final]


def test_a_picture_that_was_finished_before_its_device_was_lost_is_delivered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rig.engine.device, "poisoned_by", str)
    monkeypatch.setattr(rig.engine.sampler, "pressure", boom)
    rig.lane.start()
    rig.submit()
    assert isinstance(decode_reply(rig.final().frames[1]), GenerateReply)
    assert "outside of any command" in rig.engine.fatal


class AcceleratorError(RuntimeError):
    """As torch has it."""


class OutOfMemoryError(RuntimeError):
    """As torch has it."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"
        ),
        RuntimeError("CUDA error: unspecified launch failure"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        AcceleratorError("CUDA error: device-side assert triggered"),
    ],
)
def test_errors_that_poison_a_context_are_known_behind_others_too(error: Exception) -> None:
    assert poisoned_by(error).startswith("CUDA error: ")
    try:
        try:
            raise error
        except RuntimeError:
            raise Fault(ErrorCode.MODEL_LOADING_FAILED, "it could not be built") from None
    except Fault as fault:
        assert poisoned_by(fault).startswith("CUDA error: ")


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        ValueError("shapes do not fit"),
        Fault(ErrorCode.CANCELLED, "stopped"),
    ],
)
def test_other_errors_poison_nothing(error: Exception) -> None:
    assert poisoned_by(error) == ""


def test_every_command_leaves_a_line_when_it_ends(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[tuple[str, str, dict[str, Any]]] = []

    class Recorder:
        def __getattr__(self, level: str) -> Any:
            return lambda event, **fields: lines.append((level, event, fields))

    monkeypatch.setattr(lanes, "log", Recorder())
    rig.lane.start()
    rig.submit("well")
    rig.final("well")
    refused = lambda engine, job: engine.refused(job, ErrorCode.INSUFFICIENT_MEMORY, "no")  # noqa: E731
    monkeypatch.setattr(lanes.Engine, "run", refused)
    rig.submit("full")
    rig.final("full")
    rig.engine.fatal = "the test has ended"
    ended = {fields["request_id"]: (level, fields) for level, event, fields in lines if event == "command ended"}
    level, fields = ended["well"]
    assert (level, fields["action"], fields["model"], fields["state"], fields["code"]) == (
        "info",
        "generate",
        ONE,
        "completed",
        None,
    )
    level, fields = ended["full"]
    assert (level, fields["state"], fields["code"], fields["text"]) == (
        "warning",
        "failed",
        "INSUFFICIENT_MEMORY",
        "no",
    )
    assert fields["ms"] >= 0 and set(ended) == {"well", "full"}
