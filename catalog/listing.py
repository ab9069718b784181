"""`list_models`: filter, order, page.

Decides which models a page shows and in which order. Equal keys stay in the order of their ids either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from catalog.entry import Entry
from catalog.index import Index
from catalog.order import key_of
from catalog.presence import Presence, loaded_on
from catalog.usage import Totals
from protocol.commands import ListModels
from protocol.enums import ModelSortBy, ModelStatus, ModelType, SortDirection
from protocol.records import Record


class Page(Record, frozen=True, kw_only=True):
    """One page of what the filters leave, and the counts over all of that."""

    entries: list[Entry]
    total_count: int
    total_pages: int
    type_distribution: dict[ModelType, int]
    status_distribution: dict[ModelStatus, int]


def list_page(
    entries: Mapping[str, Entry],
    command: ListModels,
    held: Presence,
    usage: Mapping[str, Sequence[Totals]],
    *,
    index: Index,
    found_ids: frozenset[str] | None = None,
) -> Page:
    """The page that the command asks for. `usage` needs to hold what the order rests on, `found_ids` what its query
    finds, None where it asks for nothing. Raises DEVICE_NOT_FOUND."""
    device = held.device(command.device_id)
    device_id = device.identity.device_id if device else None
    wanted_type, wanted_status = command.model_type, command.status
    facts = index.facts
    found = [
        entries[model_id]
        for model_id in (index.order if found_ids is None else sorted(found_ids, key=index.order.__getitem__))
        if (wanted_type is None or wanted_type is facts[model_id].kind)
        and (wanted_status is None or wanted_status is held.status_of(entries[model_id]))
        and (device_id is None or device_id in loaded_on(held.of(model_id)))
    ]
    descends = command.sort_direction is SortDirection.Descending
    if descends or command.sort_by not in (ModelSortBy.Name, ModelSortBy.Relevance):
        found.sort(key=lambda entry: entry.id)
        found.sort(key=key_of(command.sort_by, usage, index), reverse=descends)
    first = (command.page - 1) * command.page_size
    return Page(
        entries=found[first : first + command.page_size],
        total_count=len(found),
        total_pages=-(-len(found) // command.page_size),
        type_distribution=dict(Counter([facts[entry.id].kind for entry in found])),
        status_distribution=dict(Counter([held.status_of(entry) for entry in found])),
    )
