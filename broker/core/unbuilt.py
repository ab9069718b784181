"""Commands of the contract that this version does not execute, each with the reason that its sender is given."""

from __future__ import annotations

from protocol import commands as c
from protocol.checks import unsupported
from protocol.codec import action_of
from protocol.errors import Fault

_REASONS: dict[type[c.Command], str] = {
    c.OptimizeModel: "this version has no optimiser",
}


def refusal(command: c.Command) -> Fault | None:
    """The refusal of a command that is not built, or None."""
    reason = _REASONS.get(type(command))
    return unsupported(action_of(command), reason) if reason else None
