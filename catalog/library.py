"""All that the catalogue's commands share: the models, where they are held, what of them changed and has to be told.

Decides how a model is found by its id and how it is shown. Which command does what is `catalog.catalogue`'s and
`catalog.curation`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from catalog.entry import Entry
from catalog.ids import nearest
from catalog.index import Index
from catalog.info import Include, Shown, show
from catalog.presence import Presence
from catalog.refused import Refused
from catalog.store import Store
from catalog.usage import Totals
from catalog.work import Steps
from protocol.errors import ErrorCode, Fault
from protocol.link import ModelRef
from protocol.telemetry import DeviceReport

PIECE = 100
"""Models whose texts are taken in at once: some ten milliseconds."""


class Library:
    """Every model, where it is held and how it was used. Belongs to one thread."""

    def __init__(self, store: Store, refused: Refused) -> None:
        self.store = store
        self.refused = refused
        self.held = Presence()
        self._index = Index()
        self._changed: dict[str, None] = {}

    def see_devices(self, devices: Sequence[DeviceReport]) -> None:
        """Take in where models are held now."""
        self.held = Presence(devices)

    def note(self, model_ids: Iterable[str]) -> None:
        """The broker has to be told of these."""
        self._changed |= dict.fromkeys(model_ids)

    def take_changed(self) -> tuple[list[ModelRef], list[str]]:
        """The models that changed since the last call, and the ids of those that are gone."""
        changed, self._changed = self._changed, {}
        there = [self.store.entries[model_id].ref() for model_id in changed if model_id in self.store.entries]
        return there, [model_id for model_id in changed if model_id not in self.store.entries]

    def entry(self, model_id: str) -> Entry:
        """A known model. Raises Fault MODEL_NOT_FOUND with the nearest ids; for a refused file's id, why it was."""
        found = self.store.entries.get(model_id)
        if found is not None:
            return found
        fault = self.refused.fault(model_id)
        if fault is not None:
            raise fault
        near = nearest(model_id[:128], self.store.entries)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise Fault(
            ErrorCode.MODEL_NOT_FOUND,
            f"model_id is {model_id[:128]!r}: the catalogue has no such model{hint}",
            details={"field": "model_id", "model_id": model_id[:128], "nearest": near},
        )

    def put(self, entry: Entry) -> Entry:
        """Add or replace a model; durable after the store's `commit`."""
        self.note([entry.id])
        return self.store.put(entry)

    def show(self, entry: Entry, totals: Sequence[Totals] | None = None, include: Include | None = None) -> Shown:
        """A model as replies have it; `totals` of its use are looked up where they are None."""
        if totals is None:
            totals = self.store.usage([entry.id]).get(entry.id, [])
        return show(entry, self.held.of(entry.id), totals, include or Include())

    def indexed(self) -> Index:
        """The index, with every change in it."""
        self._index_some(None)
        return self._index

    def index_in_steps(self) -> Steps:
        """Bring the index up to date, yielding after every few milliseconds."""
        while self._index_some(PIECE):
            yield

    def _index_some(self, most: int | None) -> bool:
        """Take up to so many changes in; whether there were any."""
        touched, gone = self.store.take_touched(most)
        if touched:
            self._index.put(touched)
        if gone:
            self._index.drop(gone)
        return bool(touched or gone)
