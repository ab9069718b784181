"""`list_models`: filter, order, page.

Decides which models a page shows and in which order. Equal keys stay in the order of their ids either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catalog import counts
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
    ids = index.in_order(command.model_type)
    if device is not None:
        on_device = {model.model_id for model in device.models}
        name = device.identity.device_id
        ids = [model_id for model_id in ids if model_id in on_device and name in loaded_on(held.of(model_id))]
    if found_ids is not None:
        ids = [model_id for model_id in ids if model_id in found_ids]
    if command.status is not None:
        ids = counts.with_status(ids, command.status, index.facts, entries, held)
    descends = command.sort_direction is SortDirection.Descending
    if descends or command.sort_by not in (ModelSortBy.Name, ModelSortBy.Relevance):
        key = key_of(command.sort_by, usage, index)
        ids = sorted(ids)
        ids.sort(key=lambda model_id: key(entries[model_id]), reverse=descends)
    first = (command.page - 1) * command.page_size
    facts = list(map(index.facts.__getitem__, ids))
    return Page(
        entries=[entries[model_id] for model_id in ids[first : first + command.page_size]],
        total_count=len(ids),
        total_pages=-(-len(ids) // command.page_size),
        type_distribution={ModelType[word]: count for word, count in counts.types(facts).items()},
        status_distribution={
            ModelStatus[word]: count for word, count in counts.statuses(ids, facts, entries, held).items()
        },
    )
