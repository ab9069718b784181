"""Full text of every model in SQLite's FTS5: which models have a query's words in the chosen fields, and how well.

Decides what a word of a query finds: words that begin with it, the same word with another ending, and, where those find
nothing, words that differ by one typo. The index is in memory and made anew with the process; texts are folded as
`catalog.words` folds them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from catalog import said
from catalog.entry import Entry
from catalog.words import fold, stem, typos, words
from protocol.enums import ModelSearchField, ModelType

FIELDS: Mapping[ModelSearchField, tuple[str, ...]] = {
    ModelSearchField.Name: ("name", "file"),
    ModelSearchField.Description: ("description",),
    ModelSearchField.Tags: ("tags",),
    ModelSearchField.Author: ("author",),
    ModelSearchField.Version: ("version",),
}
"""A field of the wire → the columns that it stands for: a model is also found by its id, which is its file's name."""

WEIGHTS: Mapping[str, float] = {
    "name": 10.0,
    "file": 4.0,
    "description": 1.0,
    "tags": 5.0,
    "author": 3.0,
    "version": 1.0,
}
"""How much a word in a column counts (BM25's column weights, https://sqlite.org/fts5.html#the_bm25_function)."""

SHORTEST_TYPO = 5
"""Letters of a word in which one typo is forgiven."""

MOST_WORDS = 32
"""Of a query that are looked for."""

_COLUMNS = ", ".join(WEIGHTS)
_SCHEMA = f"""
CREATE VIRTUAL TABLE texts USING fts5({_COLUMNS}, tokenize = "unicode61 remove_diacritics 0", prefix = '2 3');
CREATE VIRTUAL TABLE terms USING fts5vocab(texts, 'col');
"""
_BM25 = f"bm25(texts, {', '.join(map(str, WEIGHTS.values()))})"


class Wanted(Struct, frozen=True):
    """One word of a query: what counts as it. `exact` are whole words, `beginnings` what a word may begin with."""

    beginnings: tuple[str, ...]
    exact: tuple[str, ...] = ()

    def is_found_in(self, word: str) -> bool:
        return word in self.exact or word.startswith(self.beginnings)


class Found(Struct, frozen=True):
    """What a query found: models by number with their scores, the greater the better, and its words as looked for."""

    scores: dict[str, float]
    wanted: tuple[Wanted, ...]


class Facts(Struct, frozen=True, gc=False):
    """What filters, orders and counts ask of a model again and again; tags as they are and folded, in one order."""

    kind: ModelType
    type: str
    status: str
    name: str
    name_words: tuple[str, ...]
    author: str
    tags: tuple[str, ...]
    folded_tags: tuple[str, ...]

    @staticmethod
    def of(entry: Entry) -> Facts:
        metadata, name = said.metadata_of(entry), said.name_of(entry)
        by_fold = {fold(tag): tag for tag in reversed(metadata.tags)}
        return Facts(
            kind=entry.type,
            type=entry.type.value,
            status=entry.status.value,
            name=fold(name),
            name_words=tuple(words(name)),
            author=metadata.author,
            tags=tuple(by_fold.values()),
            folded_tags=tuple(by_fold),
        )


class Index:
    """The texts and facts of all models, and each tag as it was first spelled. Belongs to one thread."""

    def __init__(self) -> None:
        self.facts: dict[str, Facts] = {}
        self.tags: dict[str, str] = {}
        self._order: dict[str, int] | None = None
        self._by_kind: dict[ModelType, list[str]] = {}
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._rows: dict[str, int] = {}
        self._next_row = 1
        self._ids: dict[int, str] = {}

    def put(self, entries: Iterable[Entry]) -> None:
        """Add models, or their texts anew."""
        self._order = None
        with self._db:
            self._db.execute("BEGIN")
            self._put(entries)

    def drop(self, model_ids: Iterable[str]) -> None:
        """Forget models; their rows are not used again."""
        self._order = None
        for model_id in model_ids:
            if self.facts.pop(model_id, None) is not None:
                row = self._rows.pop(model_id)
                del self._ids[row]
                self._db.execute("DELETE FROM texts WHERE rowid = ?", (row,))

    def _put(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            facts = self.facts[entry.id] = Facts.of(entry)
            for folded, tag in zip(facts.folded_tags, facts.tags, strict=True):
                self.tags.setdefault(folded, tag)
            row = self._rows.get(entry.id)
            if row is None:
                row = self._rows[entry.id] = self._next_row
                self._next_row += 1
                self._ids[row] = entry.id
            values = [" ".join(words(text)) for text in texts_of(entry).values()]
            self._db.execute("DELETE FROM texts WHERE rowid = ?", (row,))
            self._db.execute(f"INSERT INTO texts (rowid, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)", (row, *values))

    @property
    def order(self) -> dict[str, int]:
        """The place of each model among all, by name, equal ones by id."""
        if self._order is None:
            ids = sorted(self.facts, key=lambda model_id: (self.facts[model_id].name, model_id))
            self._order = {model_id: place for place, model_id in enumerate(ids)}
            self._by_kind = {}
            for model_id in ids:
                self._by_kind.setdefault(self.facts[model_id].kind, []).append(model_id)
        return self._order

    def in_order(self, kind: ModelType | None) -> Sequence[str]:
        """The models of a kind, or all, in `order`."""
        order = self.order
        return list(order) if kind is None else self._by_kind.get(kind, [])

    def find(self, query: str, fields: Sequence[ModelSearchField]) -> Found | None:
        """The models that have every word of the query in one of the fields; None for a query without words."""
        columns = [column for field in dict.fromkeys(fields) for column in FIELDS[field]]
        asked = list(dict.fromkeys(words(query)))[:MOST_WORDS]
        if not asked:
            return None
        wanted = tuple(self._wanted(word, columns) for word in asked)
        if not columns or any(not one.beginnings and not one.exact for one in wanted):
            return Found({}, wanted)
        expression = " AND ".join(map(_expression, wanted))
        rows = self._db.execute(
            f"SELECT rowid, -{_BM25} FROM texts WHERE texts MATCH ?", (f"{{{' '.join(columns)}}} : ({expression})",)
        ).fetchall()
        ids = self._ids
        return Found({ids[row]: score for row, score in rows}, wanted)

    def named(self, query: str) -> list[str]:
        """The models whose name begins with the words of a query, in their order."""
        asked = words(query)
        if not asked:
            return []
        phrase = " ".join(asked)
        rows = self._db.execute("SELECT rowid FROM texts WHERE texts MATCH ?", (f'{{name}} : ^ "{phrase}"',))
        return [self._ids[row] for (row,) in rows]

    def _wanted(self, word: str, columns: Sequence[str]) -> Wanted:
        """What counts as a word of the query."""
        root = stem(word)
        near = self._terms_from(root[: max(len(root) - 1, 2)], columns) if len(word) > 2 else []
        endings = tuple(sorted(term for term in near if stem(term) == root and not term.startswith(word)))
        if endings or self._begins(word, columns):
            return Wanted((word,), endings)
        if len(word) < SHORTEST_TYPO:
            return Wanted(())
        return Wanted(tuple(sorted(near for near in typos(word) if self._begins(near, columns))))

    def _begins(self, word: str, columns: Sequence[str]) -> bool:
        marks = ", ".join("?" * len(columns))
        row = self._db.execute(
            f"SELECT 1 FROM terms WHERE term >= ? AND term < ? AND col IN ({marks}) LIMIT 1", (*_range(word), *columns)
        ).fetchone()
        return row is not None

    def _terms_from(self, beginning: str, columns: Sequence[str]) -> list[str]:
        marks = ", ".join("?" * len(columns))
        rows = self._db.execute(
            f"SELECT DISTINCT term FROM terms WHERE term >= ? AND term < ? AND col IN ({marks})",
            (*_range(beginning), *columns),
        )
        return [term for (term,) in rows]


def texts_of(entry: Entry) -> dict[str, str]:
    """The texts of a model by column."""
    metadata = said.metadata_of(entry)
    return {
        "name": said.name_of(entry),
        "file": entry.id,
        "description": said.description_of(entry),
        "tags": "\n".join(metadata.tags),
        "author": metadata.author,
        "version": said.version_of(entry),
    }


def _range(beginning: str) -> tuple[str, str]:
    """From a beginning to the first text that is past everything that begins so."""
    return beginning, beginning + "\U0010ffff"


def _expression(one: Wanted) -> str:
    beginnings = [f'"{word}"*' for word in one.beginnings]
    exact = [f'"{word}"' for word in one.exact]
    return f"({' OR '.join([*beginnings, *exact])})"
