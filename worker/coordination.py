"""What becomes of the host's hints about its own memory: honoured, or ignored with the reason."""

from __future__ import annotations

from protocol import replies
from protocol.commands import LoadModel
from protocol.enums import CoordinationMode, LoadingStrategy, LoadSource
from protocol.replies import Coordination, IgnoredHint
from ramtier.tier import RamTier


def coordinate(command: LoadModel, source: LoadSource, ram: RamTier, *, simulated: bool = False) -> Coordination | None:
    """The account of a load's hints; None where none was sent. `simulated`: no weight is read at all."""
    mode, strategy = command.coordination_mode, command.loading_strategy
    if mode is None and command.cache_optimized is None and strategy is LoadingStrategy.DEFAULT:
        return None
    honoured: list[str] = []
    ignored: list[IgnoredHint] = []
    if mode is CoordinationMode.RAM_TO_VRAM:
        honoured.append("coordination_mode")
    elif mode is CoordinationMode.CACHE_AND_VRAM_SYNC:
        reason = "get_vram_model_status answers it: a load has one model to tell of"
        ignored.append(IgnoredHint(hint="coordination_mode", reason=reason))
    elif mode is CoordinationMode.CACHE_AND_VRAM_OPTIMIZATION:
        reason = "it needs memory_pressure_context, which a load does not carry"
        ignored.append(IgnoredHint(hint="coordination_mode", reason=reason))
    if command.cache_optimized is not None:
        honoured.append("cache_optimized")
    reason = _strategy_reason(strategy, source, simulated)
    if strategy is not LoadingStrategy.DEFAULT and reason:
        ignored.append(IgnoredHint(hint="loading_strategy", reason=reason))
    elif strategy is not LoadingStrategy.DEFAULT:
        honoured.append("loading_strategy")
    tier = replies.RamTier(bytes=ram.used_bytes, budget_bytes=ram.budget_bytes)
    return Coordination(mode=mode, honoured=honoured, ignored=ignored, ram_tier=tier)


def _strategy_reason(strategy: LoadingStrategy, source: LoadSource, simulated: bool) -> str:
    """Why a strategy changed nothing; "" where it did."""
    if source is not LoadSource.DISK:
        return f"the model came from {source.value}: nothing was read"
    if simulated:
        return "a virtual device reads no weights"
    if strategy is LoadingStrategy.LAZY:
        return "every weight is on the device before the reply: no part is left to be moved at its first use"
    return ""
