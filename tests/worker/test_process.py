"""The real process over a ROUTER socket."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import commands as c
from protocol import link
from protocol.enums import DeviceKind, Lane, Tier
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply, LoadModelReply, PinModelReply, ProgressReply, UnloadModelReply
from tests.worker.bench import model_ref, worker_spec
from tests.worker.router import Router

ONE, SLOW = "one.vmodel.json", "slow.vmodel.json"
SD15 = "tiny-sd15"


@pytest.fixture
def worker(profiles: Path) -> Iterator[Router]:
    """A virtual device's process, ready."""
    router = Router(worker_spec(profiles, "virtual:0", budget_bytes=6000, ram_budget_bytes=3000))
    try:
        yield router
    finally:
        router.close()


def test_a_cpu_worker_serves_from_registration_to_stop(model_root: Path, tmp_path: Path) -> None:
    spec = worker_spec(model_root, outputs=str(tmp_path / "outputs"), runtime=str(tmp_path))
    router = Router(spec)
    try:
        register = router.ready()
        assert not register.ready and register.device is not None
        assert (register.device.kind, register.device.total_vram) == (DeviceKind.CPU, spec.budget_bytes)
        ref = model_ref(model_root, SD15)

        loaded = router.run(c.LoadModel(model_id=SD15), ref, "load")
        assert isinstance(loaded.reply, LoadModelReply) and loaded.reply.memory_usage > 0
        report = next(m for m, _ in reversed(router.seen) if isinstance(m, link.Report) and m.models is not None)
        assert report.models is not None and report.models[0].bytes == loaded.reply.memory_usage

        pinned = router.run(c.PinModel(model_id=SD15), ref, "pin", lane=Lane.CONTROL)
        assert isinstance(pinned.reply, PinModelReply) and pinned.reply.pinned

        draw = c.Generate(model_id=SD15, prompt="a", steps=30, seed=1, width=64, height=64)
        drawn = router.run(draw, ref, "draw", stream_progress=True)
        assert isinstance(drawn.reply, GenerateReply) and len(drawn.attachments) == 1
        steps = [reply.step for reply in drawn.progress if isinstance(reply, ProgressReply)]
        assert steps and steps == sorted(set(steps), key=lambda step: step or 0)

        long = c.Generate(model_id=SD15, prompt="a", steps=5000, width=64, height=64)
        router.assign(long, ref, "long")
        _, frames = router.wait(link.JobUpdate, lambda update: update.request_id == "long")
        assert frames == []
        router.send(link.CancelJob(request_id="long", attempt=1, reason="enough"))
        stopped = router.final("long")
        assert stopped.update.error_code is ErrorCode.CANCELLED and stopped.reply.message == "enough"

        unloaded = router.run(c.UnloadModel(model_id=SD15), ref, "unload")
        assert isinstance(unloaded.reply, UnloadModelReply)
        assert unloaded.reply.memory_freed == loaded.reply.memory_usage

        router.send(link.Stop(drain_seconds=5))
        assert router.exit_status() == 0
    finally:
        router.close()


def test_a_report_with_every_model_goes_before_each_reply(worker: Router, profiles: Path) -> None:
    worker.ready()
    worker.run(c.LoadModel(model_id=ONE), model_ref(profiles, ONE), "load")
    before = [message for message, _ in worker.seen if not isinstance(message, link.Beat)][-2]
    assert isinstance(before, link.Report) and before.models is not None
    assert [(entry.model_id, entry.tier) for entry in before.models] == [(ONE, Tier.VRAM)]
    assert any(isinstance(message, link.ModelChanged) and message.reason == "loaded" for message, _ in worker.seen)


def test_samples_come_four_times_as_often_while_a_model_is_loaded(profiles: Path) -> None:
    router = Router(worker_spec(profiles, "virtual:0", budget_bytes=6000, telemetry_ms=1000))
    try:
        router.ready()
        router.assign(c.LoadModel(model_id=SLOW), model_ref(profiles, SLOW), "slow")
        router.wait(link.ModelChanged, lambda change: change.model_id == SLOW)
        seen = len(router.seen)
        for _ in range(4):
            router.wait(link.Report, lambda report: report.models is None)
        beats = sum(isinstance(message, link.Beat) for message, _ in router.seen[seen:])
        assert beats < 40, "five beats from one to the next, where there are twenty else"
    finally:
        router.close()


def test_beats_and_the_control_lane_do_not_wait_for_the_device(worker: Router, profiles: Path) -> None:
    worker.ready()
    ref = model_ref(profiles, ONE)
    worker.run(c.LoadModel(model_id=ONE), ref, "load")
    worker.assign(c.LoadModel(model_id=SLOW), model_ref(profiles, SLOW), "slow")
    assert worker.run(c.PinModel(model_id=ONE), ref, "pin", lane=Lane.CONTROL).update.success
    worker.wait(link.Beat)
    worker.send(link.CancelJob(request_id="slow", attempt=1, reason="enough"))
    assert not worker.final("slow").update.success


def test_another_epoch_is_told_of_everything_held_and_of_the_last_outcome(worker: Router, profiles: Path) -> None:
    worker.ready()
    worker.run(c.LoadModel(model_id=ONE), model_ref(profiles, ONE), "load")
    worker.assign(c.LoadModel(model_id=SLOW), model_ref(profiles, SLOW), "slow")
    worker.wait(link.ModelChanged, lambda change: change.model_id == SLOW)
    worker.send(link.Welcome(epoch="second"))
    register, _ = worker.wait(link.Register)
    assert register.ready and [held.assign.request_id for held in register.holding] == ["slow"]
    report, _ = worker.wait(link.Report, lambda report: report.models is not None)
    assert [entry.model_id for entry in report.models or []] == [ONE]
    worker.send(link.CancelJob(request_id="slow", attempt=1, reason="enough"))
    worker.final("slow")
    worker.send(link.Welcome(epoch="third"))
    register, _ = worker.wait(link.Register)
    assert [held.assign.request_id for held in register.holding] == ["slow"]
    assert not worker.final("slow").update.success


def test_sigterm_ends_running_work_after_the_drain_and_refuses_new(worker: Router, profiles: Path) -> None:
    worker.ready()
    ref = model_ref(profiles, SLOW)
    worker.assign(c.LoadModel(model_id=SLOW), ref, "slow")
    worker.wait(link.ModelChanged)
    worker.send(link.Stop(drain_seconds=0.3))
    worker.assign(c.LoadModel(model_id=SLOW), ref, "late")
    assert worker.final("late").update.error_code is ErrorCode.DRAINING
    assert worker.final("slow").update.error_code is ErrorCode.DRAINING
    assert worker.exit_status() == 0


def test_sigterm_stops_and_sigint_does_not(worker: Router) -> None:
    worker.ready()
    os.kill(worker.process.pid, signal.SIGINT)
    worker.wait(link.Beat)
    worker.terminate()
    assert worker.exit_status() == 0


def test_the_worker_ends_when_its_parent_lets_go(worker: Router) -> None:
    worker.ready()
    assert worker.process.stdin is not None
    worker.process.stdin.close()
    assert worker.exit_status() == -signal.SIGKILL


def test_garbage_from_the_link_does_not_end_the_worker(worker: Router, profiles: Path) -> None:
    worker.ready()
    worker._socket.send_multipart([worker.identity, b"\xc1 nonsense"])
    assert worker.run(c.LoadModel(model_id=ONE), model_ref(profiles, ONE), "load").update.success
