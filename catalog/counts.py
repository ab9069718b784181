"""How many models are of each type and status: over all that was found, which may be tens of thousands.

Decides nothing; fast. Text is counted, not enums, and of what is held the few that are are counted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from catalog.entry import Entry
from catalog.index import Facts
from catalog.presence import Presence
from protocol.enums import ModelStatus


def types(facts: Sequence[Facts]) -> Counter[str]:
    """Types by their words."""
    return Counter([fact.type for fact in facts])


def statuses(ids: Sequence[str], facts: Sequence[Facts], entries: Mapping[str, Entry], held: Presence) -> Counter[str]:
    """Statuses by their words, with what is held of each model; `facts` are those of the ids, in their order."""
    counts = Counter([fact.status for fact in facts])
    for model_id in held.model_ids & set(ids) if held.model_ids else ():
        entry = entries[model_id]
        counts[entry.status.value] -= 1
        counts[held.status_of(entry).value] += 1
    return +counts


def with_status(
    ids: Sequence[str],
    wanted: ModelStatus,
    all_facts: Mapping[str, Facts],
    entries: Mapping[str, Entry],
    held: Presence,
) -> list[str]:
    """The models of a status, with what is held of each."""
    word, special = wanted.value, held.model_ids
    return [
        model_id
        for model_id in ids
        if (held.status_of(entries[model_id]) is wanted if model_id in special else all_facts[model_id].status == word)
    ]
