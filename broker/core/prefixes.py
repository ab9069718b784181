"""The one command whose id begins as somebody typed it. Programs name whole ids; people ask for this."""

from __future__ import annotations

import msgspec

from broker.core.context import Context
from broker.core.jobs import Job
from protocol import commands as c
from protocol.errors import invalid
from protocol.link import wire_id

MOST_NAMED = 5
"""Ids named to somebody who typed too little."""


def whole(job: Job, context: Context) -> None:
    """Put the whole id into a command that gives the beginning of one; as it is where none begins so, or it is whole.

    What is under way comes before what has ended. Raises Fault INVALID_ARGUMENT where several begin so.
    """
    command = job.command
    if not isinstance(command, c.TargetCommand) or not command.prefix:
        return
    beginning = job.scope + command.target_request_id
    live = [other.request_id for other in context.jobs if other is not job and other.request_id.startswith(beginning)]
    found = live or sorted({*context.store.beginning(beginning), *context.decisions.beginning(beginning)})
    if not found or beginning in found:
        return
    if len(found) > 1:
        some = ", ".join(wire_id(request_id) for request_id in found[:MOST_NAMED])
        more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise invalid("target_request_id", command.target_request_id, f"the beginning of one id: so begin {some}{more}")
    job.command = msgspec.structs.replace(command, target_request_id=wire_id(found[0]))
