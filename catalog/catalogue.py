"""The catalogue's commands.

Decides what each command answers. Knows nothing of sockets; what the broker must be told stands in `take_changed`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from catalog import scan
from catalog.entry import Entry
from catalog.ids import MODEL_ID, id_from, nearest
from catalog.index import Index
from catalog.info import BY_DEVICE, NO_RUNS, Include, Shown, show
from catalog.listing import list_page
from catalog.notes import notes_of
from catalog.order import needs_usage
from catalog.presence import Presence, device_status
from catalog.scan import Scan
from catalog.search import device_compatibility, find_ids, search
from catalog.sidecar import Sidecars
from catalog.store import Store
from catalog.traits import compatibility
from catalog.usage import Totals, totals_of, usage_stats
from catalog.written import Written, patch
from modelfiles.model import ModelFile, inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol import replies as r
from protocol.enums import HashDepth, ModelStatus, ModelType
from protocol.errors import ErrorCode, Fault, invalid, missing
from protocol.link import ModelRef, UsageFact
from protocol.records import ModelSearchResult
from protocol.telemetry import DeviceReport

NO_HEADERS = "this version writes beside a model, not into it; leave write_header out"
SCAN_FOLDER = "a folder beneath a model root"


class Catalogue:
    """Every model, where it is held and how it was used. Belongs to one thread."""

    def __init__(self, store: Store, roots: Roots, sidecars: Sidecars) -> None:
        self._store, self._roots = store, roots
        self._sidecars = sidecars
        self._index = Index()
        self._held = Presence()
        self._changed: dict[str, None] = {}

    def refs(self) -> list[ModelRef]:
        """Every model, for the broker's index."""
        return [entry.ref() for entry in self._store.entries.values()]

    def take_changed(self) -> list[ModelRef]:
        """The models that changed since the last call."""
        changed = [self._store.entries[model_id].ref() for model_id in self._changed]
        self._changed.clear()
        return changed

    def see_devices(self, devices: Sequence[DeviceReport]) -> None:
        """Take in where models are held now."""
        self._held = Presence(devices)

    def record(self, fact: UsageFact) -> None:
        """Take in the end of a device command; durable after `commit`."""
        totals = totals_of(fact)
        if totals is not None and totals.model_id in self._store.entries:
            self._store.add_usage(totals)

    def commit(self) -> None:
        """Make all that was taken in durable."""
        self._store.commit()

    def answer(self, command: c.Command, request_id: str) -> r.Reply:
        """The reply to any command but a scan. Raises Fault."""
        match command:
            case c.ListModels():
                return self._list_models(command, request_id)
            case c.GetModelInfo():
                return self._get_model_info(command, request_id)
            case c.RegisterModel():
                return self._register_model(command, request_id)
            case c.SearchModels():
                return self._search_models(command, request_id)
            case c.UpdateMetadata():
                return self._update_metadata(command, request_id)
            case _:
                raise Fault(ErrorCode.NOT_SUPPORTED, f"{type(command).__name__} is no command of the catalogue")

    def start_scan(self) -> Scan:
        """The scan of every root with which the catalogue begins; it hashes nothing."""
        return self._scan(self._roots.folders, HashDepth.NONE)

    def _scan(self, folders: Iterable[Path], depth: HashDepth) -> Scan:
        return Scan(self._store, self._roots, folders, depth, self._sidecars.read)

    def scan_models(self, command: c.ScanModels) -> Scan:
        """The scan that a command asks for. Raises Fault INVALID_ARGUMENT."""
        if not command.roots:
            return self._scan(self._roots.folders, command.hash)
        folders = [self._roots.resolve(text, f"roots[{n}]", SCAN_FOLDER) for n, text in enumerate(command.roots)]
        for number, folder in enumerate(folders):
            if not folder.is_dir():
                raise invalid(f"roots[{number}]", command.roots[number], SCAN_FOLDER)
        return self._scan(folders, command.hash)

    def finish_scan(self, finished: Scan) -> None:
        """Make a scan's changes durable and due to be told, be it done or given up."""
        self._store.commit()
        self._indexed()
        self._changed |= dict.fromkeys(finished.outcome.changed)

    def scan_reply(self, finished: Scan, request_id: str) -> r.ScanModelsReply:
        outcome = finished.outcome
        counts = f"{len(outcome.added)} added, {len(outcome.updated)} updated, {len(outcome.missing)} missing"
        return r.ScanModelsReply(
            request_id=request_id,
            action="scan_models",
            message=f"{counts}, {len(outcome.rejected)} rejected",
            added=outcome.added,
            updated=outcome.updated,
            missing=outcome.missing,
            rejected=outcome.rejected,
        )

    def entry(self, model_id: str) -> Entry:
        """A known model. Raises Fault MODEL_NOT_FOUND with the nearest ids."""
        found = self._store.entries.get(model_id)
        if found is not None:
            return found
        near = nearest(model_id[:128], self._store.entries)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise Fault(
            ErrorCode.MODEL_NOT_FOUND,
            f"model_id is {model_id[:128]!r}: the catalogue has no such model{hint}",
            details={"field": "model_id", "model_id": model_id[:128], "nearest": near},
        )

    def _show(self, entry: Entry, totals: Sequence[Totals], include: Include) -> Shown:
        return show(entry, self._held.of(entry.id), totals, include)

    def _indexed(self) -> Index:
        """The index, with every change in it."""
        touched = self._store.take_touched()
        if touched:
            self._index.put(touched)
        return self._index

    def _search_models(self, command: c.SearchModels, request_id: str) -> r.SearchModelsReply:
        began = time.perf_counter()
        usage = self._store.usage() if needs_usage(command.sort_by) else {}
        results = search(self._store.entries, self._indexed(), command, self._held, usage)
        usage = usage or self._store.usage(hit.entry.id for hit in results.hits)
        shown = [self._show(hit.entry, usage.get(hit.entry.id, ()), Include()) for hit in results.hits]
        found = [
            ModelSearchResult(
                model=item.info,
                relevance_score=hit.score,
                highlights=hit.highlights,
                device_compatibility=device_compatibility(hit.entry, self._held.devices),
            )
            for hit, item in zip(results.hits, shown, strict=True)
        ]
        return r.SearchModelsReply(
            request_id=request_id,
            action="search_models",
            message=f"{results.total_count} found",
            not_measured={
                f"results[{index}].model.{path}": reason
                for index, item in enumerate(shown)
                for path, reason in item.not_measured.items()
            },
            results=found,
            query=command.query,
            total_count=results.total_count,
            page=command.page,
            page_size=command.page_size,
            total_pages=results.total_pages,
            search_time_ms=(time.perf_counter() - began) * 1000,
            facets=results.facets,
        )

    def _list_models(self, command: c.ListModels, request_id: str) -> r.ListModelsReply:
        usage = self._store.usage() if needs_usage(command.sort_by) else {}
        index = self._indexed()
        found = find_ids(index, command.search_query) if command.search_query else None
        page = list_page(self._store.entries, command, self._held, usage, index=index, found_ids=found)
        usage = usage or self._store.usage(entry.id for entry in page.entries)
        details, metrics = command.include_details, command.include_metrics
        include = Include(components=details, capabilities=details, requirements=details, performance=metrics)
        shown = [self._show(entry, usage.get(entry.id, ()), include) for entry in page.entries]
        return r.ListModelsReply(
            request_id=request_id,
            action="list_models",
            not_measured={
                f"models[{index}].{path}": reason
                for index, item in enumerate(shown)
                for path, reason in item.not_measured.items()
            },
            models=[item.info for item in shown],
            total_count=page.total_count,
            page=command.page,
            page_size=command.page_size,
            total_pages=page.total_pages,
            type_distribution=page.type_distribution,
            status_distribution=page.status_distribution,
        )

    def _get_model_info(self, command: c.GetModelInfo, request_id: str) -> r.GetModelInfoReply:
        if not command.model_id:
            raise missing("model_id")
        device = self._held.device(command.device_id)
        entry = self.entry(command.model_id)
        totals = self._store.usage([entry.id]).get(entry.id, [])
        include = Include(
            metadata=command.include_metadata,
            components=command.include_components,
            requirements=command.include_requirements,
            performance=command.include_performance,
        )
        shown = self._show(entry, totals, include)
        usage = usage_stats(totals, datetime.now(UTC), entry.written.rating) if command.include_performance else None
        reasons = {f"model.{path}": reason for path, reason in shown.not_measured.items()}
        for field in ("required_compute_capability", "min_driver_version", "supported_optimizations"):
            reasons[f"compatibility.{field}"] = BY_DEVICE
        if usage is None:
            reasons["usage_stats"] = include.reason
        elif not usage.average_inference_time:
            reasons["usage_stats.average_inference_time"] = NO_RUNS
        return r.GetModelInfoReply(
            request_id=request_id,
            action="get_model_info",
            not_measured=reasons,
            model_id=entry.id,
            model=shown.info,
            compatibility=compatibility(entry),
            usage_stats=usage,
            device_status=[
                device_status(report, entry.id, entry.status)
                for report in self._held.devices
                if device is None or report is device
            ],
        )

    def _register_model(self, command: c.RegisterModel, request_id: str) -> r.RegisterModelReply:
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
            entry = self._store.put(entry)
            self._changed[entry.id] = None
        warnings = type_warnings(declared, model.type)
        unsaved = self._store.commit()
        if patched.updated_fields:
            warnings += filter(None, [self._sidecars.write(entry)])
        if unsaved:
            warnings.append(f"{entry.id} is not on disk yet, and a restart would forget it: {unsaved}")
        shown = self._show(entry, self._store.usage([entry.id]).get(entry.id, []), Include())
        return r.RegisterModelReply(
            request_id=request_id,
            action="register_model",
            warnings=warnings,
            not_measured={f"model.{field}": reason for field, reason in shown.not_measured.items()},
            model_id=entry.id,
            model=shown.info,
        )

    def _update_metadata(self, command: c.UpdateMetadata, request_id: str) -> r.UpdateMetadataReply:
        if command.write_header:
            raise Fault(ErrorCode.NOT_SUPPORTED, f"write_header: {NO_HEADERS}", details={"field": "write_header"})
        entry = self.entry(command.model_id)
        _same_revision(entry, command.revision)
        given = {"tags": command.tags, "description": command.description}
        top = {name: value for name, value in given.items() if value is not None}
        patched = patch(entry.written, command.metadata, top, validate=command.validate)
        warnings: list[str] = []
        if patched.updated_fields:
            entry, warnings = self._write(entry, patched.written)
        shown = self._show(entry, self._store.usage([entry.id]).get(entry.id, []), Include())
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
        try:
            entry = self._store.write(msgspec.structs.replace(entry, written=written, updated_at=datetime.now(UTC)))
        except OSError as error:
            text = f"{entry.id} keeps its metadata: the catalogue cannot be written: {error}"
            raise Fault(ErrorCode.INTERNAL_ERROR, text, retryable=True, details={"reason": str(error)}) from None
        self._changed[entry.id] = None
        warnings = [self._sidecars.write(entry)]
        if not self._store.is_durable:
            warnings.append(f"the catalogue has no file to write: its record of {entry.id} ends with this process")
        return entry, [warning for warning in warnings if warning]

    def _known(self, model_id: str, path: str) -> Entry | None:
        """The entry that a registration means: that of its id, or without one that of its path."""
        if not model_id:
            ids = self._store.ids_of(path)
            return self._store.entries[ids[0]] if ids else None
        known = self._store.entries.get(model_id)
        if known is not None and known.file.path != path:
            raise invalid("model_id", model_id, "an id that no other path has: a known id keeps its path")
        return known

    def _described(self, known: Entry | None, model_id: str, model: ModelFile, declared: ModelType) -> Entry:
        """The entry of a model that is registered, not yet in the store: `known` itself where nothing is new."""
        if known is None:
            path = Path(model.path)
            root = self._roots.root_of(path)
            new_id = model_id or id_from(path.relative_to(root), root.name, self._store.entries)
            fresh = scan.new_entry(new_id, model, notes_of(model, self._roots))
            written = self._sidecars.read(fresh) or fresh.written
            return msgspec.structs.replace(fresh, declared_type=declared, written=written)
        declared = known.declared_type if declared is ModelType.Unknown else declared
        is_same = known.status is ModelStatus.Available and not scan.differs(known.file, model)
        fresh = known if is_same else scan.refreshed(known, model, notes_of(model, self._roots))
        return msgspec.structs.replace(fresh, declared_type=declared)


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
