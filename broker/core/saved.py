"""A model that a worker saved: the catalogue knows it before the reply that names it goes out."""

from __future__ import annotations

from collections.abc import Callable

from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.jobs import Job
from protocol.commands import RegisterModel
from protocol.errors import Fault
from protocol.link import SavedModel


def once_known(
    saved: SavedModel, job: Job, context: Context, *, dispatch: Dispatch, answers: Answers, finish: Callable[[], None]
) -> None:
    """Register the model on behalf of its job, then `finish` that, unless it was answered meanwhile.

    Where the catalogue cannot take it, the log says so, and a scan finds it.
    """
    inner = dispatch.own_command(RegisterModel(model_id=saved.model_id, model_path=saved.path), job)

    def registered(done: Job, _: float) -> None:
        reply = dispatch.outcome(done)
        if reply.error is not None:
            context.log("warning", "a saved model is not known yet", model=saved.model_id, reason=reply.error.message)
        if context.jobs.live(job.request_id) is job:
            finish()

    inner.on_final = registered
    try:
        dispatch.to_catalog(inner)
    except Fault as fault:
        answers.fail(inner, fault.info)
