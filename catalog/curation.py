"""The commands that change what is known of models: register, unregister, update.

Decides what each changes and that it is on disk before its reply. What a field may hold is `catalog.written`'s.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from catalog import scan
from catalog.entry import Entry
from catalog.ids import MODEL_ID, id_from
from catalog.library import Library
from catalog.notes import notes_of
from catalog.sidecar import Sidecars
from catalog.written import Written, patch
from modelfiles.model import ModelFile, inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol import replies as r
from protocol.enums import ModelStatus, ModelType
from protocol.errors import ErrorCode, Fault, in_use, invalid, missing

NO_HEADERS = "this version writes beside a model, not into it; leave write_header out"


class Curator:
    """Changes a library. Belongs to its thread."""

    def __init__(self, library: Library, roots: Roots, sidecars: Sidecars) -> None:
        self._library, self._roots, self._sidecars = library, roots, sidecars

    def register(self, command: c.RegisterModel, request_id: str) -> r.RegisterModelReply:
        if not command.model_path:
            raise missing("model_path")
        if command.model_id and not MODEL_ID.fullmatch(command.model_id):
            raise invalid("model_id", command.model_id, "1-128 letters, digits, '.', '_', '-', first a letter or digit")
        declared = declared_type(command.model_type)
        path = str(self._roots.existing(command.model_path))
        known = self._known(command.model_id, path)
        model = inspect(path, self._roots)
        entry = self._described(known, command.model_id, model, declared)
        patched = patch(entry.written, command.metadata, {}, validate=True)
        entry = msgspec.structs.replace(entry, written=patched.written)
        if entry != known:
            entry = self._library.put(entry)
        warnings = type_warnings(declared, model.type)
        unsaved = self._library.store.commit()
        if patched.updated_fields:
            warnings += filter(None, [self._sidecars.write(entry)])
        if unsaved:
            warnings.append(f"{entry.id} is not on disk yet, and a restart would forget it: {unsaved}")
        shown = self._library.show(entry)
        return r.RegisterModelReply(
            request_id=request_id,
            action="register_model",
            warnings=warnings,
            not_measured={f"model.{field}": reason for field, reason in shown.not_measured.items()},
            model_id=entry.id,
            model=shown.info,
        )

    def unregister(self, command: c.UnregisterModel, request_id: str) -> r.UnregisterModelReply:
        """Forget a model and what was learned of it. Its files stay, the sidecar beside it too."""
        store = self._library.store
        entry = self._library.entry(command.model_id)
        holders = [holding.device_id for holding in self._library.held.of(entry.id)]
        if holders:
            raise in_use(entry.id, holders)
        try:
            store.forget(entry.id)
        except OSError as error:
            raise _not_on_disk(f"{entry.id} stays registered", error) from None
        self._library.note([entry.id])
        warnings = [] if store.is_durable else [f"the catalogue has no file to write: a restart finds {entry.id} again"]
        self._sidecars.drop_spare(entry.id)
        left_out = store.is_left_out(entry.file.path)
        others = f"; {', '.join(store.ids_of(entry.file.path)[:8])} still has its path"
        return r.UnregisterModelReply(
            request_id=request_id,
            action="unregister_model",
            message=f"{entry.id} is unregistered; its files are as they were{'' if left_out else others}",
            warnings=warnings,
            model_id=entry.id,
            file_path=entry.file.path,
            left_out=left_out,
        )

    def update(self, command: c.UpdateMetadata, request_id: str) -> r.UpdateMetadataReply:
        if command.write_header:
            raise Fault(ErrorCode.NOT_SUPPORTED, f"write_header: {NO_HEADERS}", details={"field": "write_header"})
        entry = self._library.entry(command.model_id)
        _same_revision(entry, command.revision)
        given = {"tags": command.tags, "description": command.description}
        top = {name: value for name, value in given.items() if value is not None}
        patched = patch(entry.written, command.metadata, top, validate=command.validate)
        warnings: list[str] = []
        if patched.updated_fields:
            entry, warnings = self._write(entry, patched.written)
        shown = self._library.show(entry)
        return r.UpdateMetadataReply(
            request_id=request_id,
            action="update_metadata",
            message=f"{', '.join(patched.updated_fields) or 'nothing'} changed",
            warnings=warnings,
            not_measured={f"updated_model.{field}": reason for field, reason in shown.not_measured.items()},
            model_id=entry.id,
            updated_fields=patched.updated_fields,
            updated_model=shown.info,
            updated_at=entry.updated_at,
            revision=entry.revision,
        )

    def _write(self, entry: Entry, written: Written) -> tuple[Entry, list[str]]:
        """What clients wrote, on disk, and beside the model. Raises Fault, with nothing changed."""
        changed = msgspec.structs.replace(entry, written=written, updated_at=datetime.now(UTC))
        try:
            entry = self._library.store.write(changed)
        except OSError as error:
            raise _not_on_disk(f"{entry.id} keeps its metadata", error) from None
        self._library.note([entry.id])
        warnings = [self._sidecars.write(entry)]
        if not self._library.store.is_durable:
            warnings.append(f"the catalogue has no file to write: its record of {entry.id} ends with this process")
        return entry, [warning for warning in warnings if warning]

    def _known(self, model_id: str, path: str) -> Entry | None:
        """The entry that a registration means: that of its id, or without one that of its path."""
        if not model_id:
            ids = self._library.store.ids_of(path)
            return self._library.store.entries[ids[0]] if ids else None
        known = self._library.store.entries.get(model_id)
        if known is not None and known.file.path != path:
            raise invalid("model_id", model_id, "an id that no other path has: a known id keeps its path")
        return known

    def _described(self, known: Entry | None, model_id: str, model: ModelFile, declared: ModelType) -> Entry:
        """The entry of a model that is registered, not yet in the store: `known` itself where nothing is new."""
        if known is None:
            path = Path(model.path)
            root = self._roots.root_of(path)
            new_id = model_id or id_from(path.relative_to(root), root.name, self._library.store.entries)
            fresh = scan.new_entry(new_id, model, notes_of(model, self._roots))
            written = self._sidecars.read(fresh) or fresh.written
            return msgspec.structs.replace(fresh, declared_type=declared, written=written)
        declared = known.declared_type if declared is ModelType.Unknown else declared
        is_same = known.status is ModelStatus.Available and not scan.differs(known.file, model)
        fresh = known if is_same else scan.refreshed(known, model, notes_of(model, self._roots))
        return msgspec.structs.replace(fresh, declared_type=declared)


def _not_on_disk(what_stays: str, error: OSError) -> Fault:
    text = f"{what_stays}: the catalogue cannot be written: {error}"
    return Fault(ErrorCode.INTERNAL_ERROR, text, retryable=True, details={"reason": str(error)})


def _same_revision(entry: Entry, revision: int | None) -> None:
    """Raise Fault INVALID_ARGUMENT, retryable, where somebody has changed the model since."""
    if revision is not None and revision != entry.revision:
        text = f"revision is {revision}: {entry.id} is at {entry.revision}; read it again"
        details = {"field": "revision", "revision": entry.revision}
        raise Fault(ErrorCode.INVALID_ARGUMENT, text, retryable=True, details=details)


def declared_type(text: str) -> ModelType:
    """The ModelType that a text names, in any letter case; "" is Unknown. Raises Fault INVALID_ARGUMENT."""
    if not text:
        return ModelType.Unknown
    by_word = {kind.value.casefold(): kind for kind in ModelType}
    found = by_word.get(text.strip().casefold())
    if found is None:
        raise invalid("model_type", text, f"one of {', '.join(kind.value for kind in ModelType)}")
    return found


def type_warnings(declared: ModelType, found: ModelType) -> list[str]:
    """A warning that names both where the file is of another type than was said."""
    if ModelType.Unknown in (declared, found) or declared is found:
        return []
    return [f"model_type is {declared.value}, but the file is {found.value}: {found.value} is used"]
