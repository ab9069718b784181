"""`list_models`: filter, order, page.

Decides which models a page shows and in which order. Equal keys stay in the order of their ids either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from catalog import said
from catalog.entry import Entry
from catalog.index import Index
from catalog.presence import Presence, loaded_on
from catalog.usage import Totals, performance
from protocol.commands import ListModels
from protocol.enums import ModelSortBy, ModelStatus, ModelType, SortDirection
from protocol.records import Record

NEVER = datetime.min.replace(tzinfo=UTC)


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
        found.sort(key=_sort_key(command.sort_by, usage, index), reverse=descends)
    first = (command.page - 1) * command.page_size
    return Page(
        entries=found[first : first + command.page_size],
        total_count=len(found),
        total_pages=-(-len(found) // command.page_size),
        type_distribution=dict(Counter([facts[entry.id].kind for entry in found])),
        status_distribution=dict(Counter([held.status_of(entry) for entry in found])),
    )


def needs_usage(sort_by: ModelSortBy) -> bool:
    """Whether an order rests on the usage totals of every model."""
    return sort_by in (ModelSortBy.LastUsed, ModelSortBy.Performance)


def _sort_key(sort_by: ModelSortBy, usage: Mapping[str, Sequence[Totals]], index: Index) -> Callable[[Entry], Any]:
    """The order's key; what has no figure comes before every figure. Without a query, relevance is the name."""
    match sort_by:
        case ModelSortBy.Type:
            return lambda entry: (entry.type.value.casefold(), index.facts[entry.id].name)
        case ModelSortBy.Size:
            return lambda entry: entry.file.size_bytes
        case ModelSortBy.CreatedDate:
            return lambda entry: said.metadata_of(entry).created_date or NEVER
        case ModelSortBy.LastUsed:
            return lambda entry: max((totals.last_used for totals in usage.get(entry.id, ())), default=NEVER)
        case ModelSortBy.Performance:
            return lambda entry: performance(usage.get(entry.id, ())).inference_throughput
        case ModelSortBy.Rating:
            return lambda entry: -1.0 if entry.written.rating is None else entry.written.rating
        case _:
            return lambda entry: index.facts[entry.id].name
