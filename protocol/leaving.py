"""The order in which models leave a device: a worker carries it out, the broker foretells it in a plan. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeVar

from protocol.enums import LoadPriority

EQUAL_WITHIN = 1.2
"""Reloads that cost up to so many times the cheapest count as equal: estimates are no better than that."""

T = TypeVar("T")


class Standing(NamedTuple):
    """What speaks for a model's staying; `used` grows with the time of its last use, in any unit."""

    priority: LoadPriority
    reload_ms: float
    bytes: int
    used: float

    @property
    def cost(self) -> float:
        """Milliseconds to bring a byte back."""
        return self.reload_ms / max(1, self.bytes)


def leaving_order(models: Iterable[T], standing: Callable[[T], Standing]) -> list[T]:
    """First to go first: lower priority, then cheaper to reload per byte, then least recently used."""
    left = [(standing(model), model) for model in models]
    order: list[T] = []
    while left:
        lowest = min(one.priority.ordinal for one, _ in left)
        least = min(one.cost for one, _ in left if one.priority.ordinal == lowest)
        equal = [pair for pair in left if pair[0].priority.ordinal == lowest and pair[0].cost <= least * EQUAL_WITHIN]
        chosen = min(equal, key=lambda pair: pair[0].used)
        left.remove(chosen)
        order.append(chosen[1])
    return order
