"""Copies of a model's components in the RAM tier, made in steps: between two of them the device's thread is free."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ramtier.blocks import Block
from ramtier.tier import RamTier
from settings.logs import Logger
from worker.components import Component

log = Logger()


def copied(components: Sequence[Component], ram: RamTier, *, evict: bool) -> Generator[None, None, bool]:
    """Put components into the tier, all or none; whether they are there. Closed half-way, it takes back what it put."""
    by_key = {one.key: one for one in components}
    wanted = ram.reserve({one.key: one.weights.bytes for one in components}, evict=evict)
    if wanted is None:
        return False
    brought: list[str] = []
    try:
        for key in wanted:
            yield from _brought(by_key[key], ram)
            brought.append(key)
    except (OSError, ValueError) as error:
        # The tier is a convenience: a machine without memory for it goes on without it.
        log.warning("a model cannot be kept in the RAM tier", reason=str(error))
    finally:
        missing = wanted[len(brought) :]
        if missing:
            ram.let_go(brought)
        for key in missing:
            ram.abandon(key)
    return not missing


def _brought(component: Component, ram: RamTier) -> Generator[None, None, None]:
    """Write one component where room was reserved for it. Raises OSError, ValueError."""
    kind = component.module.__class__.__name__
    with Block.make(f"vrambroker {kind}", component.weights.bytes) as block:
        yield from component.weights.written(component.module, block)
        if not ram.publish(component.key, block):
            raise OSError(f"the RAM tier refused {kind}")
