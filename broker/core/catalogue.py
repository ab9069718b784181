"""The broker's copy of the catalogue's index, and what is known of the process that keeps the catalogue."""

from __future__ import annotations

import difflib
from itertools import islice

from broker.core.bulletin import Bulletin
from broker.core.refusals import unknown_model
from protocol.errors import Fault
from protocol.link import CatalogEntries, CatalogRefusals, ModelRef
from protocol.refused import refused_fault
from protocol.replies import RefusedFile

MOST_LOOKED_AT = 16
"""Ids of each trait that a wrong one is compared with: a comparison takes some 30 us."""


class Catalogue:
    """Every model by id, and the catalogue's connection: `worker` is its routing id, None while there is none."""

    def __init__(self) -> None:
        self.models: dict[str, ModelRef] = {}
        self.worker: bytes | None = None
        self.ready = False
        self.heard_at = 0.0
        self.generation = 0
        self._refused: dict[str, RefusedFile] = {}
        self._alike: dict[str, dict[str, None]] = {}
        self._told: set[str] = set()
        self.leaving: dict[str, str] = {}
        """The models that are being unregistered → the request id of the command that does it."""
        self.unanswered: set[str] = set()
        """The request ids of its commands that are not final."""

    def take(self, header: CatalogEntries, bulletin: Bulletin) -> None:
        """Take in what the catalogue says of its models; each change is published."""
        removed = header.removed
        for entry in header.entries:
            self._put(entry, header.change, bulletin)
        if header.complete:
            self._told.update(entry.model_id for entry in header.entries)
            if not header.more:
                removed = [*self.models.keys() - self._told]
                self._told = set()
        for model_id in removed:
            self._drop(model_id, bulletin)

    def _put(self, entry: ModelRef, change: str, bulletin: Bulletin) -> None:
        before = self.models.get(entry.model_id)
        self.models[entry.model_id] = entry
        if before is None:
            for trait in traits(entry.model_id):
                self._alike.setdefault(trait, {})[entry.model_id] = None
        if before is None or before.revision != entry.revision:
            change = change or ("added" if before is None else "updated")
            bulletin.catalog(entry.model_id, change, entry.revision)

    def _drop(self, model_id: str, bulletin: Bulletin) -> None:
        gone = self.models.pop(model_id, None)
        if gone is None:
            return
        for trait in traits(model_id):
            self._alike[trait].pop(model_id, None)
            if not self._alike[trait]:
                del self._alike[trait]
        bulletin.catalog(model_id, "removed", gone.revision)

    def take_refusals(self, header: CatalogRefusals) -> None:
        """Take in which files scans found and refused."""
        self._refused = {file.model_id: file for file in header.files}

    def unknown(self, model_id: str, field: str = "model_id") -> Fault:
        """What is said of an id that no model has: why the file of that name was refused, or the nearest there are."""
        file = self._refused.get(model_id)
        return unknown_model(model_id, self.nearest(model_id), field) if file is None else refused_fault(file, field)

    def nearest(self, wanted: str, count: int = 3) -> list[str]:
        """Ids that are much like one that nobody knows, of those that begin, go on or end as it does.

        As many are looked at however many models there are.
        """
        found: dict[str, None] = {}
        for trait in traits(wanted):
            found |= dict.fromkeys(islice(self._alike.get(trait, ()), MOST_LOOKED_AT))
        return difflib.get_close_matches(wanted, found, n=count)


def traits(model_id: str) -> tuple[str, ...]:
    """What ids that are alike have in common: their first, their middle or their last letters."""
    folded = model_id.casefold()
    middle = len(folded) // 2
    return f"^{folded[:4]}", f"~{folded[middle - 2 : middle + 2]}", f"{folded[-4:]}$"
