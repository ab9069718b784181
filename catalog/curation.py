"""The commands that change what is known of models: register, unregister, update.

Decides what each changes and that it is on disk before its reply. What a field may hold is `catalog.written`'s.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from catalog.changes import Listings, refreshed, same_but_for_times, same_content
from catalog.entry import Entry
from catalog.header import with_words
from catalog.ids import MODEL_ID
from catalog.library import Library
from catalog.newcomers import Newcomers
from catalog.notes import notes_of
from catalog.rewriting import Rewriting
from catalog.sidecar import Sidecars
from catalog.work import Steps, done
from catalog.written import Patched, Written, patch
from modelfiles.model import Kind, ModelFile, inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol import replies as r
from protocol.enums import ModelStatus, ModelType
from protocol.errors import ErrorCode, Fault, in_use, invalid, missing

UNWRITABLE = {
    ModelStatus.Missing: ErrorCode.MODEL_NOT_FOUND,
    ModelStatus.Corrupted: ErrorCode.MODEL_CORRUPTED,
}
"""What a file is, as a scan found it, whose header cannot be written; any other is unsafe."""


class Curator:
    """Changes a library. Belongs to its thread."""

    def __init__(self, library: Library, roots: Roots, sidecars: Sidecars) -> None:
        self.library, self._roots, self._sidecars = library, roots, sidecars
        self._newcomers = Newcomers(library.store, roots, sidecars)

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
            entry = self.library.put(entry)
        warnings = type_warnings(declared, model.type)
        unsaved = self.library.store.commit()
        if patched.updated_fields:
            warnings += filter(None, [self._write_sidecar(entry)])
        if unsaved:
            warnings.append(f"{entry.id} is not on disk yet, and a restart would forget it: {unsaved}")
        shown = self.library.show(entry)
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
        store = self.library.store
        entry = self.library.entry(command.model_id)
        holders = [holding.device_id for holding in self.library.held.of(entry.id)]
        if holders:
            raise in_use(entry.id, holders)
        try:
            store.forget(entry.id)
        except OSError as error:
            raise _not_on_disk(f"{entry.id} stays registered", error) from None
        self.library.note([entry.id])
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
        entry, patched = self._patched(command)
        warnings: list[str] = []
        if patched.updated_fields:
            entry = self.write(entry, patched.written)
            warnings = self.copy_beside(entry)
        return self.updated(entry, patched.updated_fields, warnings, request_id)

    def update_with_header(self, command: c.UpdateMetadata) -> HeaderUpdate:
        """An update that goes into the model's file too. Raises Fault, with nothing changed."""
        entry, patched = self._patched(command)
        if entry.file.kind is not Kind.SINGLE:
            what = "folder" if entry.file.kind is Kind.FOLDER else "profile"
            text = f"write_header is true: {entry.id} is a {what}, and has no safetensors header of its own"
            raise Fault(ErrorCode.NOT_SUPPORTED, text, details={"field": "write_header"})
        if entry.status is not ModelStatus.Available:
            code = UNWRITABLE.get(entry.status, ErrorCode.UNSAFE_MODEL)
            raise Fault(code, f"write_header: {entry.id} is {entry.status.value}: {entry.reason}")
        return HeaderUpdate(self, entry, patched)

    def _patched(self, command: c.UpdateMetadata) -> tuple[Entry, Patched]:
        entry = self.library.entry(command.model_id)
        _same_revision(entry, command.revision)
        given = {"tags": command.tags, "description": command.description}
        top = {name: value for name, value in given.items() if value is not None}
        return entry, patch(entry.written, command.metadata, top, validate=command.validate)

    def updated(self, entry: Entry, fields: list[str], warnings: list[str], request_id: str) -> r.UpdateMetadataReply:
        """The reply to an update."""
        shown = self.library.show(entry)
        return r.UpdateMetadataReply(
            request_id=request_id,
            action="update_metadata",
            message=f"{', '.join(fields) or 'nothing'} changed",
            warnings=warnings,
            not_measured={f"updated_model.{field}": reason for field, reason in shown.not_measured.items()},
            model_id=entry.id,
            updated_fields=fields,
            updated_model=shown.info,
            updated_at=entry.updated_at,
            revision=entry.revision,
        )

    def write(self, entry: Entry, written: Written) -> Entry:
        """What clients wrote, on disk when this returns. Raises Fault, with nothing changed."""
        changed = msgspec.structs.replace(entry, written=written, updated_at=datetime.now(UTC))
        try:
            entry = self.library.store.write(changed)
        except OSError as error:
            raise _not_on_disk(f"{entry.id} keeps its metadata", error) from None
        self.library.note([entry.id])
        return entry

    def copy_beside(self, entry: Entry) -> list[str]:
        """What clients wrote, in a sidecar; warnings of what could not be done."""
        warnings = [self._write_sidecar(entry)]
        if not self.library.store.is_durable:
            warnings.append(f"the catalogue has no file to write: its record of {entry.id} ends with this process")
        return [warning for warning in warnings if warning]

    def _write_sidecar(self, entry: Entry) -> str:
        first, *_ = self.library.store.ids_of(entry.file.path)
        return self._sidecars.write(entry, is_first=entry.id == first)

    def look_again(self, path: str) -> None:
        """Bring every model at a path up to date with a file that was changed here."""
        model = inspect(path, self._roots)
        for model_id in self.library.store.ids_of(path):
            entry = self.library.store.entries[model_id]
            self.library.put(refreshed(entry, model, notes_of(model, self._roots, Listings())))

    def _known(self, model_id: str, path: str) -> Entry | None:
        """The entry that a registration means: that of its id, or without one that of its path."""
        if not model_id:
            ids = self.library.store.ids_of(path)
            return self.library.store.entries[ids[0]] if ids else None
        known = self.library.store.entries.get(model_id)
        if known is not None and known.file.path != path:
            raise invalid("model_id", model_id, "an id that no other path has: a known id keeps its path")
        return known

    def _described(self, known: Entry | None, model_id: str, model: ModelFile, declared: ModelType) -> Entry:
        """The entry of a model that is registered, not yet in the store: `known` itself where nothing is new."""
        if known is None:
            fresh = self._newcomers.entry_of(model, model_id=model_id)
            return msgspec.structs.replace(fresh, declared_type=declared)
        declared = known.declared_type if declared is ModelType.Unknown else declared
        same = known.status is ModelStatus.Available and same_but_for_times(known.file, model)
        same = same and done(same_content(known, model))
        fresh = known if same else refreshed(known, model, notes_of(model, self._roots, Listings()))
        return msgspec.structs.replace(fresh, declared_type=declared)


class HeaderUpdate:
    """An update that goes into the header too: the new file is made, then all is written, then it is put in place."""

    def __init__(self, curator: Curator, entry: Entry, patched: Patched) -> None:
        self._curator, self._library = curator, curator.library
        self._entry, self._patched = entry, patched
        self._warnings: list[str] = []

    def steps(self) -> Steps:
        before, written = self._entry, self._patched.written
        path = Path(before.file.path)
        link = os.readlink(path) if path.is_symlink() else ""  # noqa: PTH115 - as it is written, not resolved
        # The fingerprint of the file itself comes first; that of a configuration's folder beside it follows.
        rewriting = Rewriting(before.file.fingerprints[0], lambda old: with_words(old, written))
        try:
            yield from rewriting.steps()
            _same_revision(self._library.entry(before.id), before.revision)
            after = self._curator.write(before, written)
            try:
                rewriting.place()
            except Fault:
                self._curator.write(after, before.written)
                raise
        finally:
            rewriting.close()
        self._curator.look_again(before.file.path)
        self._entry = self._library.entry(before.id)
        self._warnings = self._curator.copy_beside(self._entry)
        if link:
            self._warnings.append(f"{before.file.path} was a link to {link}; it is a file of its own now")
        if before.checksum:
            self._warnings.append(f"{before.id} is another file now: scan_models with hash gives its checksum")

    def finish(self) -> None:
        self._library.store.commit()

    def reply(self, request_id: str) -> r.UpdateMetadataReply:
        return self._curator.updated(self._entry, self._patched.updated_fields, self._warnings, request_id)


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
