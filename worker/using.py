"""A model that a command runs: brought where it is not on the device, held there meanwhile, left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from protocol.enums import LoadPriority, Tier
from protocol.errors import ErrorCode, Fault
from worker import ladder
from worker.engine import Engine
from worker.job import Job
from worker.loading import Brought, Wish, assigned_model, bring
from worker.resident import Resident

NO_FAILURE = frozenset({ErrorCode.CANCELLED, ErrorCode.SUPERSEDED, ErrorCode.TIMEOUT, ErrorCode.INVALID_ARGUMENT})
"""Faults that say nothing of the model's health."""


def at_hand(engine: Engine, job: Job, model_id: str, priority: LoadPriority) -> Brought:
    """The model on the device, as a load by its id alone would bring it. Raises Fault."""
    resident = engine.cache.get(model_id)
    wish = Wish(
        priority=resident.priority if resident is not None and resident.tier is Tier.VRAM else priority,
        host_holds_file=resident is not None and not resident.keeps_ram_copy,
    )
    return bring(engine, job, assigned_model(job, model_id), wish)


def limit_bytes(engine: Engine, resident: Resident) -> int:
    """What the model and a run of it may take together, by the fraction of its configuration; 0 for no bound."""
    return int(resident.resolved.memory_fraction * engine.keeper.room().total)


@contextmanager
def in_use(engine: Engine, resident: Resident) -> Iterator[None]:
    """Nobody takes the model away; whatever fails meanwhile is noted of its health, and what it changed is put back."""
    engine.cache.begin(resident)
    try:
        yield
    except Exception as error:
        if not isinstance(error, Fault) or error.code not in NO_FAILURE:
            resident.note_run(succeeded=False)
        ladder.mend(engine, resident)
        raise
    finally:
        engine.cache.end(resident)
