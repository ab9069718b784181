"""`search_models`: what a query and its filters leave, in an order, with counts over all of it, and highlights.

Decides filters, facets and order. What a word finds is `catalog.index`'s affair.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from catalog import counts, traits
from catalog.entry import Entry
from catalog.index import FIELDS, Found, Index, Wanted, texts_of
from catalog.order import key_of
from catalog.presence import Presence
from catalog.usage import Totals
from catalog.words import WORD, fold, words
from protocol.commands import SearchModels
from protocol.enums import ModelSearchField, ModelSortBy, SortDirection
from protocol.records import Record
from protocol.telemetry import DeviceReport

EXACT, BEGINS, BY_HASH = 1000.0, 100.0, 500.0
"""Added to a score where the name is the query, where it begins so, and where the query begins a model's hash."""

HASH_PREFIX = re.compile(r"(?:sha256:|fast:)?([0-9a-f]{6,64})")
BEGIN, END = "<em>", "</em>"
HIGHLIGHT_CHARS = 240
"""Of a long text around the first word that matched."""

ASCENDING = frozenset({ModelSortBy.Name, ModelSortBy.Type})
"""Orders that ascend where no direction is asked for; the rest has the greatest first."""


class Hit(Record, frozen=True, kw_only=True):
    """One model of a page."""

    entry: Entry
    score: float
    highlights: dict[str, str]


class Results(Record, frozen=True, kw_only=True):
    """One page, and the counts over all that was found."""

    hits: list[Hit]
    total_count: int
    total_pages: int
    facets: dict[str, dict[str, int]]


def search(
    entries: Mapping[str, Entry],
    index: Index,
    command: SearchModels,
    held: Presence,
    usage: Mapping[str, Sequence[Totals]],
) -> Results:
    """The page that the command asks for. `usage` needs to hold what the order rests on."""
    found = index.find(command.query, command.search_fields)
    scores = _scores(entries, index, command, found)
    passes = _filter(entries, index, command)
    kept = list(scores) if passes is None else [model_id for model_id in scores if passes(model_id)]
    _sort(kept, entries, index, command, scores=scores, usage=usage)
    first = (command.page - 1) * command.page_size
    wanted = found.wanted if found is not None else ()
    page = [entries[model_id] for model_id in kept[first : first + command.page_size]]
    return Results(
        hits=[
            Hit(entry=entry, score=scores[entry.id], highlights=highlights(entry, command.search_fields, wanted))
            for entry in page
        ],
        total_count=len(kept),
        total_pages=-(-len(kept) // command.page_size),
        facets=facets(kept, entries, index, held),
    )


def find_ids(index: Index, query: str) -> frozenset[str] | None:
    """The models that a list's query finds, over name, description, tags and author; None: it asks for nothing."""
    fields = (
        ModelSearchField.Name,
        ModelSearchField.Description,
        ModelSearchField.Tags,
        ModelSearchField.Author,
    )
    found = index.find(query, fields)
    return None if found is None else frozenset(found.scores)


def _scores(entries: Mapping[str, Entry], index: Index, command: SearchModels, found: Found | None) -> dict[str, float]:
    """What the query finds, with how well; a query that asks for nothing finds all."""
    by_hash = HASH_PREFIX.fullmatch(command.query.strip().lower())
    if found is None:
        return dict.fromkeys(entries, 0.0) if not command.query.strip() else {}
    scores = found.scores
    asked = tuple(words(command.query))
    if ModelSearchField.Name in command.search_fields:
        for model_id in index.named(command.query):
            if model_id in scores:
                scores[model_id] += EXACT if index.facts[model_id].name_words == asked else BEGINS
    if by_hash is not None:
        for entry in entries.values():
            if entry.checksum.rpartition(":")[2].startswith(by_hash[1]):
                scores[entry.id] = scores.get(entry.id, 0.0) + BY_HASH
    return scores


def _filter(entries: Mapping[str, Entry], index: Index, command: SearchModels) -> Callable[[str], bool] | None:
    """Whether every filter lets a model through; None where there is none."""
    types, tags = set(command.model_types), {fold(tag.strip()) for tag in command.tags}
    rating, memory, devices = command.min_rating, command.max_memory_bytes, set(command.compatible_devices)
    if not (types or tags or devices) and rating is None and memory is None:
        return None

    def passes(model_id: str) -> bool:
        entry = entries[model_id]
        rated = entry.written.rating
        return (
            (not types or entry.type in types)
            and tags.issubset(index.facts[model_id].folded_tags)
            and (rating is None or (rated is not None and rated >= rating))
            and (memory is None or entry.file.weights_bytes <= memory)
            and (not devices or not devices.isdisjoint(traits.device_types(entry)))
        )

    return passes


def facets(ids: Sequence[str], entries: Mapping[str, Entry], index: Index, held: Presence) -> dict[str, dict[str, int]]:
    """How many of the models have each type, tag, author and status; tags of one spelling but for case are one."""
    facts = list(map(index.facts.__getitem__, ids))
    tags = Counter(chain.from_iterable([fact.folded_tags for fact in facts]))
    found = {
        "type": counts.types(facts),
        "tags": Counter({index.tags[folded]: count for folded, count in tags.items()}),
        "author": Counter([fact.author for fact in facts if fact.author]),
        "status": counts.statuses(ids, facts, entries, held),
    }
    return {name: dict(counter.most_common()) for name, counter in found.items()}


def highlights(entry: Entry, fields: Sequence[ModelSearchField], wanted: Sequence[Wanted]) -> dict[str, str]:
    """The fields in which a word of the query stands, each with those words between <em> and </em>."""
    texts = texts_of(entry)
    marked = {field.value.lower(): _marked(texts[FIELDS[field][0]], wanted) for field in dict.fromkeys(fields)}
    return {name: text for name, text in marked.items() if text}


def _marked(text: str, wanted: Sequence[Wanted]) -> str:
    """A text with its matching words marked, cut to what is around the first; "" where none matches."""
    places = [match.span() for match in WORD.finditer(text) if any(_matches(match[0], one) for one in wanted)]
    if not places:
        return ""
    start = max(0, places[0][0] - HIGHLIGHT_CHARS // 3) if len(text) > HIGHLIGHT_CHARS else 0
    end = min(len(text), start + HIGHLIGHT_CHARS)
    pieces, at = ["…" if start else ""], start
    for first, last in places:
        if last <= end:
            pieces += [text[at:first], BEGIN, text[first:last], END]
            at = last
    return "".join([*pieces, text[at:end], "…" if end < len(text) else ""])


def _matches(word: str, one: Wanted) -> bool:
    return any(one.is_found_in(part) for part in words(word))


def device_compatibility(entry: Entry, devices: Sequence[DeviceReport]) -> dict[str, bool]:
    """Device id → whether it runs models of this kind and has the memory for the weights."""
    return {
        device.identity.device_id: traits.runs_on(entry, device.identity.kind)
        and entry.file.weights_bytes <= device.identity.total_vram
        for device in devices
    }


def _sort(
    ids: list[str],
    entries: Mapping[str, Entry],
    index: Index,
    command: SearchModels,
    *,
    scores: Mapping[str, float],
    usage: Mapping[str, Sequence[Totals]],
) -> None:
    """Order models; equal ones by name, then id, whatever the direction."""
    by = command.sort_by
    if by is ModelSortBy.Relevance and not command.query.strip():
        by = ModelSortBy.Name
    ascends = by in ASCENDING
    if command.sort_direction is not None:
        ascends = command.sort_direction is SortDirection.Ascending
    ids.sort(key=index.order.__getitem__, reverse=by is ModelSortBy.Name and not ascends)
    if by is ModelSortBy.Relevance:
        ids.sort(key=scores.__getitem__, reverse=not ascends)
    elif by is not ModelSortBy.Name:
        key = key_of(by, usage, index)
        ids.sort(key=lambda model_id: key(entries[model_id]), reverse=not ascends)
