"""The catalogue's commands.

Decides what each command answers. Knows nothing of sockets; what the broker must be told stands in `take_changed`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import UNSET

from catalog.curation import Curator
from catalog.info import BY_DEVICE, NO_RUNS, Include
from catalog.library import Library
from catalog.listing import list_page
from catalog.marking import Marking, is_unmarked
from catalog.newcomers import Newcomers
from catalog.order import needs_usage
from catalog.presence import device_status
from catalog.refused import Refused
from catalog.scan import Scan
from catalog.search import device_compatibility, find_ids, search
from catalog.sidecar import Sidecars
from catalog.store import Store
from catalog.traits import compatibility
from catalog.usage import totals_of, usage_stats
from catalog.work import Asked, Steps
from modelfiles.paths import Roots
from protocol import commands as c
from protocol import replies as r
from protocol.enums import HashDepth
from protocol.errors import ErrorCode, Fault, invalid, missing
from protocol.link import ModelRef, UsageFact
from protocol.records import ModelSearchResult
from protocol.telemetry import DeviceReport

MOST_REFUSED = 1000
"""Refused files in one reply."""

SCAN_FOLDER = "a folder beneath a model root"


class Catalogue:
    """Every model, where it is held and how it was used. Belongs to one thread."""

    def __init__(self, store: Store, roots: Roots, sidecars: Sidecars) -> None:
        self._store, self._roots = store, roots
        self._newcomers = Newcomers(store, roots, sidecars)
        self._library = Library(store, Refused(store, roots))
        self._curator = Curator(self._library, roots, sidecars)

    def refs(self) -> list[ModelRef]:
        """Every model, for the broker's index."""
        return [entry.ref() for entry in self._store.entries.values()]

    def take_changed(self) -> tuple[list[ModelRef], list[str]]:
        """The models that changed since the last call, and the ids of those that are gone."""
        return self._library.take_changed()

    def take_refusals(self) -> list[r.RefusedFile] | None:
        """The files that scans refused, where any of them changed since the last call."""
        return self._library.refused.take_changed()

    def refusals(self) -> list[r.RefusedFile]:
        """The files that scans refused."""
        return self._library.refused.files

    def see_devices(self, devices: Sequence[DeviceReport]) -> None:
        """Take in where models are held now."""
        self._library.see_devices(devices)

    def record(self, fact: UsageFact) -> None:
        """Take in the end of a device command; durable after `commit`."""
        totals = totals_of(fact)
        if totals is not None and totals.model_id in self._store.entries:
            self._store.add_usage(totals)

    def commit(self) -> None:
        """Make all that was taken in durable."""
        self._store.commit()

    def answer(self, command: c.Command, request_id: str) -> r.Reply:
        """The reply to a command for which `begin` has no work. Raises Fault."""
        match command:
            case c.ListModels():
                return self._list_models(command, request_id)
            case c.GetModelInfo():
                return self._get_model_info(command, request_id)
            case c.RegisterModel():
                return self._curator.register(command, request_id)
            case c.SearchModels():
                return self._search_models(command, request_id)
            case c.UnregisterModel():
                return self._curator.unregister(command, request_id)
            case c.UpdateMetadata():
                return self._curator.update(command, request_id)
            case _:
                raise Fault(ErrorCode.NOT_SUPPORTED, f"{type(command).__name__} is no command of the catalogue")

    @staticmethod
    def is_long(command: c.Command) -> bool:
        """Whether `begin` has work for a command: one at a time is done."""
        return isinstance(command, c.ScanModels) or (isinstance(command, c.UpdateMetadata) and command.write_header)

    def begin(self, command: c.Command) -> Asked | None:
        """The work of a command that takes longer than an answer; None for any other. Raises Fault."""
        if isinstance(command, c.ScanModels):
            return Scanning(self, self._library, self.scan_models(command))
        if isinstance(command, c.UpdateMetadata) and command.write_header:
            return self._curator.update_with_header(command)
        return None

    def spare_work(self) -> Marking | None:
        """What is done while nothing is asked: marks for the models without one; None where all have theirs."""
        unmarked = [entry.id for entry in self._store.entries.values() if is_unmarked(entry)]
        return Marking(self._store, unmarked) if unmarked else None

    def start_scan(self) -> Scanning:
        """The scan of every root with which the catalogue begins; it hashes nothing."""
        return Scanning(self, self._library, self._scan(self._roots.folders, HashDepth.NONE))

    def _scan(self, folders: Iterable[Path], depth: HashDepth) -> Scan:
        return Scan(self._store, self._roots, folders, depth, self._newcomers.entry_of)

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
        outcome = finished.outcome
        self._library.note(outcome.changed)
        self._library.refused.scanned(finished.folders, outcome.rejected, to_the_end=finished.is_done)

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

    def _search_models(self, command: c.SearchModels, request_id: str) -> r.SearchModelsReply:
        began = time.perf_counter()
        usage = self._store.usage() if needs_usage(command.sort_by) else {}
        results = search(self._store.entries, self._library.indexed(), command, self._library.held, usage)
        usage = usage or self._store.usage(hit.entry.id for hit in results.hits)
        shown = [self._library.show(hit.entry, usage.get(hit.entry.id, ()), Include()) for hit in results.hits]
        found = [
            ModelSearchResult(
                model=item.info,
                relevance_score=hit.score,
                highlights=hit.highlights,
                device_compatibility=device_compatibility(hit.entry, self._library.held.devices),
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
        index = self._library.indexed()
        found = find_ids(index, command.search_query) if command.search_query else None
        page = list_page(self._store.entries, command, self._library.held, usage, index=index, found_ids=found)
        usage = usage or self._store.usage(entry.id for entry in page.entries)
        details, metrics = command.include_details, command.include_metrics
        include = Include(components=details, capabilities=details, requirements=details, performance=metrics)
        shown = [self._library.show(entry, usage.get(entry.id, ()), include) for entry in page.entries]
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
            rejected=self._library.refused.files[:MOST_REFUSED] if command.rejected else UNSET,
        )

    def _get_model_info(self, command: c.GetModelInfo, request_id: str) -> r.GetModelInfoReply:
        if not command.model_id:
            raise missing("model_id")
        device = self._library.held.device(command.device_id)
        entry = self._library.entry(command.model_id)
        totals = self._store.usage([entry.id]).get(entry.id, [])
        include = Include(
            metadata=command.include_metadata,
            components=command.include_components,
            requirements=command.include_requirements,
            performance=command.include_performance,
        )
        shown = self._library.show(entry, totals, include)
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
                for report in self._library.held.devices
                if device is None or report is device
            ],
        )


class Scanning:
    """A scan as work, after which all that it found can be searched; `scan` is read for what it found."""

    def __init__(self, catalogue: Catalogue, library: Library, scan: Scan) -> None:
        self._catalogue, self._library, self.scan = catalogue, library, scan

    def steps(self) -> Steps:
        yield from self.scan.steps()
        yield from self._library.index_in_steps()

    def finish(self) -> None:
        self._catalogue.finish_scan(self.scan)

    def reply(self, request_id: str) -> r.ScanModelsReply:
        return self._catalogue.scan_reply(self.scan, request_id)
