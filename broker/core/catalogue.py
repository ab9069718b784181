"""The broker's copy of the catalogue's index, and what is known of the process that keeps the catalogue."""

from __future__ import annotations

from broker.core.bulletin import Bulletin
from protocol.link import CatalogEntries, ModelRef


class Catalogue:
    """Every model by id, and the catalogue's connection: `worker` is its routing id, None while there is none."""

    def __init__(self) -> None:
        self.models: dict[str, ModelRef] = {}
        self.worker: bytes | None = None
        self.ready = False
        self.heard_at = 0.0
        self.generation = 0
        self.unanswered: set[str] = set()
        """The request ids of its commands that are not final."""

    def take(self, header: CatalogEntries, bulletin: Bulletin) -> None:
        """Take in what the catalogue says of its models; each change is published."""
        known = self.models
        removed = header.removed
        if header.complete:
            self.models = {}
            removed = [*known.keys() - {entry.model_id for entry in header.entries}]
        for entry in header.entries:
            before = known.get(entry.model_id)
            self.models[entry.model_id] = entry
            if before is None or before.revision != entry.revision:
                change = header.change or ("added" if before is None else "updated")
                bulletin.catalog(entry.model_id, change, entry.revision)
        for model_id in removed:
            gone = known.get(model_id)
            self.models.pop(model_id, None)
            if gone is not None:
                bulletin.catalog(model_id, "removed", gone.revision)
