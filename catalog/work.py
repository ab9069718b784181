"""What takes longer than an answer: done in steps of a few milliseconds, so that others are answered between them."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol, TypeVar, runtime_checkable

from protocol import replies as r

Steps = Generator[None, None, None]
T = TypeVar("T")


def done(steps: Generator[None, None, T]) -> T:
    """The result of steps that are few: all are done at once."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result


class Work(Protocol):
    """What is on its way. Whatever its end, `finish` is called."""

    def steps(self) -> Steps:
        """Do it, yielding every few milliseconds; closed early, it leaves nothing half done. Raises Fault."""

    def finish(self) -> None:
        """Make what was done durable and due to be told."""


@runtime_checkable
class Asked(Work, Protocol):
    """A command on its way, which has a `reply` once `steps` came to their end."""

    def reply(self, request_id: str) -> r.Reply:
        """The answer to whoever asked."""
