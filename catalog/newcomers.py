"""A model that the catalogue has no record of: its id, and what is told of it already.

Decides what a new record begins with. A sidecar of ours brings back the id that the model had and what clients wrote.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from catalog.changes import Listings, Names
from catalog.entry import Entry
from catalog.notes import notes_of
from catalog.sidecar import Sidecars
from catalog.store import Store
from catalog.written import Written
from modelfiles.model import ModelFile
from modelfiles.paths import Roots


class Newcomers:
    """Makes first entries; puts none into the store."""

    def __init__(self, store: Store, roots: Roots, sidecars: Sidecars) -> None:
        self._store, self._roots, self._sidecars = store, roots, sidecars

    def entry_of(self, model: ModelFile, names: Names | None = None, *, model_id: str = "") -> Entry:
        """The first entry of a model, under the id asked for or one of its own; `names` lists a folder."""
        beside = self._sidecars.beside(model)
        if not model_id:
            path = Path(model.path)
            root = self._roots.root_of(path)
            model_id = self._store.free_id(path.relative_to(root), root, wished=beside.model_id if beside else "")
        written = self._sidecars.recalled(model, model_id, beside)
        now = datetime.now(UTC)
        return Entry(
            id=model_id,
            file=model,
            notes=notes_of(model, self._roots, names or Listings()),
            written=written or Written(),
            added_at=now,
            updated_at=now,
        )
