"""The catalogue's process as the broker meets it: its registration, what it says, its silence and its death."""

from __future__ import annotations

from broker.core.adoption import Adoption
from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.endings import Endings
from broker.core.events import SendWorker, TellSupervisor, WorkerMessage
from broker.core.fleet import Device
from broker.core.intake import Intake
from broker.core.jobs import Job
from broker.core.vitals import Vitals
from protocol.enums import Lane, ReplyState
from protocol.link import CATALOG_ID, CatalogEntries, CatalogRefusals, JobUpdate, Register, UsageFact, Welcome
from protocol.supervision import KillChild

CATALOGUE_PATIENCE = 2.0
"""The catalogue beats between steps of its one thread: it may be silent for as many times longer than a worker."""


class Librarian:
    """Takes the catalogue's messages in. Raises nothing."""

    def __init__(
        self,
        context: Context,
        answers: Answers,
        dispatch: Dispatch,
        intake: Intake,
        *,
        adoption: Adoption,
        endings: Endings,
    ) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch
        self._intake = intake
        self._adoption = adoption
        self._endings = endings

    def register(self, worker: bytes, header: Register) -> None:
        """A process that keeps the catalogue is there, with what it has of the last broker's commands."""
        context = self._context
        catalogue = context.catalogue
        if catalogue.worker is not None and catalogue.worker != worker:
            self._lose("another catalogue took over")
        catalogue.worker = worker
        catalogue.generation = header.generation
        catalogue.heard_at = context.clock()
        context.devices_changed = True
        context.emit(SendWorker(worker, Welcome(epoch=context.epoch)))
        for held in header.holding:
            self._adoption.adopt(held, worker, None)
        self._dispatch.resume_catalog()

    def receive(self, message: WorkerMessage) -> None:
        """One message of the catalogue."""
        context = self._context
        context.catalogue.heard_at = context.clock()
        match message.header:
            case CatalogEntries():
                self._entries(message.header)
            case CatalogRefusals():
                context.catalogue.take_refusals(message.header)
            case JobUpdate():
                job = self._dispatch.catalog_job(message.header.request_id)
                if job is None or job.attempt != message.header.attempt:
                    return
                if message.header.state is ReplyState.PROGRESS:
                    self._answers.progress(job, message.header, message.body)
                    return
                self._dispatch.release(job)
                self._endings.finish(job, message.header, message.body)
            case _:
                pass

    def _entries(self, header: CatalogEntries) -> None:
        catalogue = self._context.catalogue
        catalogue.take(header, self._context.bulletin)
        # What a whole list lacks may come back, such as on a disk that is unplugged; what was dropped by name may not.
        for model_id in header.removed:
            self._context.estimates.forget(model_id)
        if header.complete and not header.more and not catalogue.ready:
            catalogue.ready = True
            self._intake.decide_waiting()

    def record_usage(self, job: Job, device: Device, update: JobUpdate) -> None:
        """A device's command ended: the catalogue counts the uses of its model."""
        catalogue = self._context.catalogue
        if catalogue.worker is None or job.action.lane is not Lane.DEVICE or not job.model_id:
            return
        fact = UsageFact(
            model_id=job.model_id,
            device_id=device.device_id,
            action=job.action.name,
            success=update.success,
            ended_at=self._context.wall(),
            facts=update.facts,
        )
        self._context.emit(SendWorker(catalogue.worker, fact))

    def exited(self, generation: int, reason: str) -> None:
        """The supervisor saw its process end."""
        if generation >= self._context.catalogue.generation:
            self._lose(reason)

    def watch(self, vitals: Vitals, now: float) -> None:
        """Give it up where it is silent."""
        catalogue = self._context.catalogue
        if catalogue.worker is not None:
            reason = vitals.silent(catalogue.heard_at, now, CATALOGUE_PATIENCE)
            if reason is not None:
                self.condemn(reason)

    def condemn(self, reason: str) -> None:
        """Its process is ended, whatever it does."""
        generation = self._context.catalogue.generation
        self._context.emit(TellSupervisor(KillChild(child=CATALOG_ID, generation=generation, reason=reason)))
        self._lose(reason)

    def _lose(self, reason: str) -> None:
        context = self._context
        context.catalogue.worker = None
        for job in self._dispatch.lose_catalog():
            self._endings.lost(job, f"the catalogue was lost while it ran {job.action.name}: {reason}", died=False)
