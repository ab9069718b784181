"""What becomes of the host's hints about its own memory: honoured, or ignored with the reason."""

from __future__ import annotations

from protocol import replies
from protocol.commands import LoadModel
from protocol.enums import CoordinationMode, LoadingStrategy, LoadSource, Tier
from protocol.replies import Coordination, IgnoredHint
from ramtier.tier import RamTier
from worker.loading import Brought


def coordinate(command: LoadModel, brought: Brought, ram: RamTier) -> Coordination | None:
    """The account of a load's hints; None where none was sent."""
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
    reason = _strategy_reason(strategy, brought)
    if strategy is not LoadingStrategy.DEFAULT and reason:
        ignored.append(IgnoredHint(hint="loading_strategy", reason=reason))
    elif strategy is not LoadingStrategy.DEFAULT:
        honoured.append("loading_strategy")
    tier = replies.RamTier(bytes=ram.used_bytes, budget_bytes=ram.budget_bytes)
    return Coordination(mode=mode, honoured=honoured, ignored=ignored, ram_tier=tier)


def _strategy_reason(strategy: LoadingStrategy, brought: Brought) -> str:
    """Why a strategy changed nothing; "" where it did."""
    resident, source = brought.resident, brought.source
    if strategy is LoadingStrategy.LAZY:
        placed = resident.tier is Tier.VRAM
        return brought.put_off or ("the model was on the device already" if placed else "")
    if source is not LoadSource.DISK:
        return f"the model came from {source.value}: nothing was read"
    return "a virtual device reads no weights" if resident.file.profile is not None else ""
