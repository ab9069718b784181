"""Commands that others sent: found by the beginning of their ids, waited for, looked at afterwards."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import replies
from msgspec import structs
from router import Received, Router

from cli.screens import catalogue, devices
from cli.terminal import Terminal
from protocol.codec import action_of
from protocol.commands import TargetCommand
from protocol.enums import DeviceState, JobState, LoadPriority
from protocol.ids import short_id
from protocol.replies import (
    DrainDeviceReply,
    ExplainReply,
    GetResultReply,
    JobProgress,
    ListDevicesReply,
    Reply,
    RunningCommand,
    WaitingCommand,
)

Run = Callable[..., subprocess.CompletedProcess[str]]


def result(state: JobState, **fields: Any) -> GetResultReply:
    return GetResultReply(
        request_id=None, action="get_result", target_request_id="abcdef", job_state=state, message="m", **fields
    )


def answering(**by_action: Reply | list[Reply]) -> Router:
    """A router with answers of its own for some actions; of a list each once, the last for ever."""

    def answer(received: Received) -> None:
        action = action_of(received.command)
        own = by_action[action] if action in by_action else replies.of_action(action)
        if isinstance(own, list):
            own = own.pop(0) if len(own) > 1 else own[0]
        attached = [replies.PNG] if isinstance(own, GetResultReply) and own.attachments else []
        received.send(own, attached)

    return Router(answer)


@pytest.mark.parametrize("words", [("cancel", "abc"), ("explain", "abc"), ("result", "abc")])
def test_the_beginning_of_an_id_is_enough(vrambroker: Run, words: tuple[str, ...]) -> None:
    known = ExplainReply(request_id=None, action="explain", target_request_id="abcdef", candidates=[])
    with answering(get_result=result(JobState.RUNNING), explain=known) as router:
        vrambroker("-e", router.endpoint, *words)
        sent = router.seen[-1].command
    assert isinstance(sent, TargetCommand) and sent.prefix and sent.target_request_id == "abc"


def test_a_stored_picture_is_written_and_shown_as_when_it_was_drawn(vrambroker: Run, tmp_path: Path) -> None:
    drawn = replies.drawing("image-0")
    final = result(JobState.FINAL, result=drawn, attachments=drawn.attachments)
    with answering(get_result=final) as router:
        done = vrambroker("-e", router.endpoint, "result", "abc", "-o", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [replies.PNG]
    assert "tiny-sd15" in done.stdout


def test_a_stored_failure_is_shown_and_exits_1(vrambroker: Run) -> None:
    with answering(get_result=result(JobState.FINAL, result=replies.refusal("load_model"))) as router:
        done = vrambroker("-e", router.endpoint, "result", "abc")
    assert done.returncode == 1 and "INSUFFICIENT_MEMORY" in done.stderr


def test_what_still_runs_is_shown_where_it_is_or_waited_for(vrambroker: Run) -> None:
    running = result(JobState.RUNNING, device_id="cpu:0", progress=JobProgress(step=3, steps=20))
    with answering(get_result=running) as router:
        done = vrambroker("-e", router.endpoint, "result", "abc")
    assert done.returncode == 0 and "on cpu:0, step 3 of 20" in done.stdout
    loaded = result(JobState.FINAL, result=replies.of_action("load_model"))
    with answering(get_result=[running, running, loaded]) as router:
        done = vrambroker("-e", router.endpoint, "result", "abc", "--wait")
        asked = [seen.command for seen in router.seen if action_of(seen.command) == "get_result"]
    assert done.returncode == 0 and len(asked) == 3
    with answering(get_result=result(JobState.UNKNOWN)) as router:
        assert vrambroker("-e", router.endpoint, "result", "abc").returncode == 1


def draining(*waiting: str, state: DeviceState = DeviceState.DRAINING, running: str = "") -> ListDevicesReply:
    device = replies.device("cpu:0", state)
    command = RunningCommand(request_id=running, action="generate", model_id="m", started_at=replies.NOW)
    device = structs.replace(device, running=command if running else None, queue_depth=len(waiting))
    waits = [
        WaitingCommand(
            device_id="cpu:0", request_id=name, action="load_model", model_id="n", priority=LoadPriority.Normal
        )
        for name in waiting
    ]
    return ListDevicesReply(request_id=None, action="list_devices", devices=[device], waiting=waits)


DRAINING = DrainDeviceReply(
    request_id=None, action="drain_device", device_id="cpu:0", device_state=DeviceState.DRAINING, message="no new work"
)


def test_drain_wait_names_each_command_it_waits_for_once(vrambroker: Run) -> None:
    looks: list[Reply] = [
        draining("two", running="one"),
        draining("two", running="one"),
        draining(running="two"),
        draining(state=DeviceState.DRAINED),
    ]
    with answering(drain_device=DRAINING, list_devices=looks) as router:
        done = vrambroker("-e", router.endpoint, "drain", "cpu:0", "--wait")
    assert done.returncode == 0
    said = done.stderr.splitlines()
    assert said.count("waits for generate m, request one") == 1
    assert said.count("waits for load_model n, request two") == 1
    assert "ended: generate m, request one" in said
    assert "drained cpu:0 has no work left" in done.stdout


def test_drain_wait_ends_in_time_and_says_what_is_left(vrambroker: Run) -> None:
    with answering(drain_device=DRAINING, list_devices=draining(running="one")) as router:
        done = vrambroker("-e", router.endpoint, "drain", "cpu:0", "--timeout", "0.5")
    assert done.returncode == 1 and "cpu:0 is still draining after 0.5 s: 1 commands left" in done.stderr


def test_a_command_tells_its_id_at_its_start(broker: Router, vrambroker: Run) -> None:
    done = vrambroker("-e", broker.endpoint, "load", "tiny-sd15", "--json")
    sent = broker.seen[-1].command
    assert f"load tiny-sd15: request {sent.request_id}" in done.stderr
    assert json.loads(done.stdout)["success"] is True


def test_ids_for_people_are_short_and_differ() -> None:
    ids = {short_id() for _ in range(1000)}
    assert len(ids) == 1000 and all(len(one) == 10 and one.isalnum() for one in ids)


def bold(request_id: str, *others: str) -> str:
    text = devices.request_text(request_id, (request_id, *others))
    assert text.plain == request_id
    return text.plain[: text.spans[0].end]


def test_what_tells_an_id_from_the_others_is_bold() -> None:
    assert bold("abcdefgh", "abcdxxxx", "zzzz") == "abcde"
    assert bold("abcdefgh") == "abcd"
    assert bold("job", "job-1") == "job"
    assert bold("job-1", "job") == "job-"


@pytest.mark.parametrize("width", [40, 60, 100])
def test_what_runs_and_waits_is_shown_whatever_the_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    reply = structs.replace(draining("two-of-these", running="one-of-these"), waiting=draining("two").waiting)
    reply = structs.replace(reply, devices=[structs.replace(reply.devices[0], queue_depth=7)])
    Terminal(width=width).print(devices.ps_view(reply))
    shown = capsys.readouterr().out
    for part in ("one-of-these", "two", "waits", "and 6 more that wait", "7"):
        assert part in shown


def test_no_name_is_broken_on_forty_columns(capsys: pytest.CaptureFixture[str]) -> None:
    name = "stable-diffusion-xl-turbo-fp16"
    listed = replies.of_action("list_models")
    models = [structs.replace(replies.model(), id=name, name=name)]
    Terminal(width=40).print(catalogue.models_view(structs.replace(listed, models=models)))
    Terminal(width=40).print(devices.ps_view(draining(running="0123456789")))
    shown = capsys.readouterr().out
    assert name in shown and "0123456789" in shown and "tiny-sd15" in shown
