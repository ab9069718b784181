"""The orders of lists and searches: what a model is compared by.

Decides keys alone; what of equal keys comes first is who asks's affair. What has no figure comes before every figure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from catalog import said
from catalog.entry import Entry
from catalog.index import Index
from catalog.usage import Totals, performance
from protocol.enums import ModelSortBy

NEVER = datetime.min.replace(tzinfo=UTC)


def needs_usage(sort_by: ModelSortBy) -> bool:
    """Whether an order rests on the usage totals of every model."""
    return sort_by in (ModelSortBy.LastUsed, ModelSortBy.Performance)


def key_of(sort_by: ModelSortBy, usage: Mapping[str, Sequence[Totals]], index: Index) -> Callable[[Entry], Any]:
    """The order's key; `usage` needs to hold what it rests on. Relevance is the query's: by itself it is the name."""
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
