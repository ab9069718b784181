"""Copies of components in the RAM tier, made in steps between which the device's thread can do something else."""

from __future__ import annotations

from collections.abc import Generator

from protocol.ramtier import Verdict
from ramtier.blocks import Block
from ramtier.tier import RamTier
from settings.logs import Logger
from worker.components import Component

log = Logger()


def copied(component: Component, ram: RamTier, *, evict: bool) -> Generator[bool, None, Verdict]:
    """Put a component into the tier. THERE: it was there; DONE: it is now; else it is not, and nothing of it stays."""
    weights = component.weights
    verdict = ram.reserve(component.key, weights.bytes, evict=evict)
    if verdict is not Verdict.DONE:
        return verdict
    block: Block | None = None
    try:
        block = Block.make(f"vrambroker {component.module.__class__.__name__}", weights.bytes)
        for _ in weights.written(component.module, block):
            yield False
        return Verdict.DONE if ram.publish(component.key, block) else Verdict.REFUSED
    except (OSError, ValueError) as error:
        # The tier is a convenience: a machine without memory for it goes on without it.
        log.warning("a part cannot be kept in the RAM tier", key=component.key, reason=str(error))
        return Verdict.NO_ROOM
    finally:
        ram.abandon(component.key)
        if block is not None:
            block.close()
