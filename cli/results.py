"""`vrambroker result`: what became of a command, whoever sent it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import structs
from rich.console import RenderableType

from cli.screens import benchmark, catalogue, optimization, residency, validation
from cli.session import FAILED, Session, session
from cli.terminal import readable
from cli.working import write_pictures
from client.answers import Answer, as_kind, stored
from client.images import pictures
from protocol import replies as r
from protocol.commands import GetResult
from protocol.enums import JobState

POLL_SECONDS = 0.2

VIEWS: dict[type[r.Reply], Callable[[Any], RenderableType]] = {
    r.LoadModelReply: residency.load_view,
    r.UnloadModelReply: residency.unload_view,
    r.ValidateModelReply: validation.validation_view,
    r.BenchmarkModelReply: benchmark.benchmark_view,
    r.OptimizeModelReply: lambda reply: optimization.optimization_view(reply, None),
    r.ScanModelsReply: catalogue.scan_view,
    r.UpdateMetadataReply: catalogue.update_view,
    r.RegisterModelReply: catalogue.registered_view,
    r.UnregisterModelReply: catalogue.unregistered_view,
}
"""The screens on which commands show their own replies."""


def result(endpoint: str | None, as_json: bool, request_id: str, *, output: Path, wait: bool) -> None:
    """Show a command's stored reply, its pictures written to files, or where it is; ends with 1 where it failed or
    nothing is known of it."""
    with session(endpoint, as_json) as this:
        answer = _asked(this, request_id)
        while wait and answer.reply.job_state in (JobState.QUEUED, JobState.RUNNING):
            time.sleep(POLL_SECONDS)
            answer = _asked(this, answer.reply.target_request_id)
        if answer.reply.job_state is JobState.FINAL and answer.reply.result is not None:
            final = stored(answer)
            this.answer(final, _view(structs.replace(final, reply=readable(final.reply)), output))
            return
        this.answer(answer, residency.headline(answer.reply.job_state.value, _standing(answer.reply)))
    if answer.reply.job_state in (JobState.UNKNOWN, JobState.FINAL):
        raise SystemExit(FAILED)


def _asked(this: Session, request_id: str) -> Answer[r.GetResultReply]:
    return as_kind(this.call(GetResult(target_request_id=request_id, prefix=True)), r.GetResultReply)


def _view(final: Answer[r.Reply], output: Path) -> RenderableType:
    reply = final.reply
    if isinstance(reply, r.GenerateReply):
        drawn = as_kind(final, r.GenerateReply)
        return residency.generate_view(reply, write_pictures(output, reply, pictures(drawn)))
    view = VIEWS.get(type(reply))
    return residency.headline(reply.action, reply.message) if view is None else view(reply)


def _standing(reply: r.GetResultReply) -> str:
    """Where a command is that has not ended, or why nothing can be shown."""
    words = [reply.target_request_id, reply.message]
    if reply.device_id:
        words.append(f"on {reply.device_id}")
    if reply.position is not None:
        words.append(f"{reply.position} before it" if reply.position else "next")
    if reply.progress is not None and reply.progress.steps:
        words.append(f"step {reply.progress.step or 0} of {reply.progress.steps}")
    return ", ".join(words)
