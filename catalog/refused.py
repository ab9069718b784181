"""Files that a scan found and would not take, by the ids that they would have had.

Decides what is still true of them: a scan replaces what was known beneath its folders. Nothing here outlives the
process: the scan at the start finds them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from catalog.ids import id_from
from catalog.store import Store
from modelfiles.allowed import PICKLES
from modelfiles.paths import Roots
from modelfiles.strangers import UNFINISHED
from protocol.errors import Fault
from protocol.refused import refused_fault
from protocol.replies import RefusedFile, RejectedFile


class Refused:
    """Every refused file by its id. A file that has an entry of its own says what is wrong there, and is not here."""

    def __init__(self, store: Store, roots: Roots) -> None:
        self._store, self._roots = store, roots
        self._files: dict[str, RefusedFile] = {}
        self._changed = False

    @property
    def files(self) -> list[RefusedFile]:
        """All of them, by path."""
        return sorted(self._files.values(), key=lambda file: file.path)

    def scanned(self, folders: Iterable[Path], found: Iterable[RejectedFile], *, to_the_end: bool) -> None:
        """Take in what a scan refused; one that went to its end knows all that there is beneath its folders."""
        before = dict(self._files)
        if to_the_end:
            within = list(folders)
            kept = {
                model_id: file
                for model_id, file in self._files.items()
                if not any(Path(file.path).is_relative_to(folder) for folder in within)
            }
        else:
            paths = {file.path for file in found}
            kept = {model_id: file for model_id, file in self._files.items() if file.path not in paths}
        self._files = kept
        for file in found:
            if not self._store.ids_of(file.path):
                model_id = self._id_of(Path(file.path))
                self._files[model_id] = RefusedFile(**msgspec.structs.asdict(file), model_id=model_id)
        self._changed = self._changed or self._files != before

    def take_changed(self) -> list[RefusedFile] | None:
        """All of them where any changed since the last call, else None."""
        changed, self._changed = self._changed, False
        return self.files if changed else None

    def fault(self, model_id: str) -> Fault | None:
        """What is said of a model by the id of a refused file; None for any other id, and for one that has a model."""
        file = None if model_id in self._store.entries else self._files.get(model_id)
        return None if file is None else refused_fault(file)

    def _id_of(self, path: Path) -> str:
        while path.suffix.lower() in (*PICKLES, *UNFINISHED):
            path = path.with_suffix("")
        root = self._roots.root_of(path) if self._roots.contains(path) else path.parent
        return id_from(path.relative_to(root), root.name, self._is_taken)

    def _is_taken(self, model_id: str) -> bool:
        return model_id in self._files or model_id in self._store.entries
