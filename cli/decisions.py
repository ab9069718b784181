"""Why a command went where it went, and where a load would go: the broker's own numbers.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415 - commands import what they run when they run

from __future__ import annotations

import typer

from cli.options import Device, Json, ModelId, RequestId


def plan(context: typer.Context, model_id: ModelId, device: Device = "", as_json: Json = False) -> None:
    """What a load would do now: where, what it would evict, how long. Nothing is loaded."""
    from cli.screens.decisions import plan_view
    from cli.session import session
    from client.answers import as_kind
    from protocol.commands import Plan
    from protocol.replies import PlanReply

    with session(context.obj, as_json) as this:
        answer = as_kind(this.call(Plan(model_id=model_id, device_id=device)), PlanReply)
        this.answer(answer, plan_view(answer.reply))


def explain(
    context: typer.Context,
    request_id: RequestId,
    as_json: Json = False,
) -> None:
    """Why a command went where it went: candidates, waits, evictions."""
    from cli.screens.decisions import explain_view
    from cli.session import FAILED, session
    from client.answers import as_kind
    from protocol.commands import Explain
    from protocol.replies import ExplainReply

    with session(context.obj, as_json) as this:
        answer = as_kind(this.call(Explain(target_request_id=request_id, prefix=True)), ExplainReply)
        this.answer(answer, explain_view(answer.reply))
    if answer.reply.chosen is None:
        raise typer.Exit(FAILED)
