"""Marks for models that have none yet, made while the catalogue has nothing else to do.

Decides nothing but the order: what was added last comes last. Nothing that a client sees changes.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from catalog.entry import Entry
from catalog.hashing import mark
from catalog.store import Store
from catalog.work import Steps
from protocol.enums import ModelStatus


def is_unmarked(entry: Entry) -> bool:
    """Whether a model's content could not be told from another."""
    return not entry.mark and entry.status is ModelStatus.Available


class Marking:
    """Work that nobody waits for: it is given up for any other, and goes on where it was."""

    def __init__(self, store: Store, model_ids: Sequence[str]) -> None:
        self._store, self.model_ids = store, model_ids

    def steps(self) -> Steps:
        for model_id in self.model_ids:
            entry = self._store.entries.get(model_id)
            if entry is None or not is_unmarked(entry):
                continue
            try:
                if not all(fingerprint.is_current() for fingerprint in entry.file.fingerprints):
                    # Another file than the record's: the next scan looks at it.
                    continue
                made = yield from mark(entry.file)
            except OSError:
                continue
            current = self._store.entries.get(model_id)
            if current is not None and current.file == entry.file:
                self._store.put(msgspec.structs.replace(current, mark=made), is_change=False)
            yield

    def finish(self) -> None:
        self._store.commit()
