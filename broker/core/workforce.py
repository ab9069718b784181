"""What workers and the supervisor say: registration, reports, replies, signs of life, deaths.

Three signs of life stay apart: the process (the supervisor's word), the link (beats), and progress (the count that
beats carry). A worker that is gone answers its running command with WORKER_LOST; what only waited goes elsewhere, or
waits for the restart.
"""

from __future__ import annotations

from functools import partial

from broker.core.adoption import Adoption
from broker.core.answers import Answers
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.endings import Endings
from broker.core.events import SendWorker, TellSupervisor, WorkerMessage
from broker.core.finals import Accepted
from broker.core.fleet import Device
from broker.core.intake import Intake
from broker.core.learning import learn, note_eviction
from broker.core.librarian import Librarian
from broker.core.renewal import proceed, renew
from broker.core.saved import once_known
from broker.core.vitals import STARTING, Vitals
from protocol.enums import ReplyState, Tier
from protocol.link import (
    CATALOG_ID,
    Beat,
    Farewell,
    JobUpdate,
    ModelChanged,
    Register,
    Report,
    Welcome,
)
from protocol.supervision import ChildExited, ChildReady, ChildServed, ChildStarted, KillChild, RecycleChild


class Workforce:
    """Takes workers' messages in. Raises nothing."""

    def __init__(self, context: Context, answers: Answers, dispatch: Dispatch, intake: Intake) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch
        self._intake = intake
        self._adoption = Adoption(context, answers, dispatch)
        self._endings = Endings(context, answers, intake)
        self._librarian = Librarian(context, answers, dispatch, intake, adoption=self._adoption, endings=self._endings)
        self._vitals = Vitals(context.spec.silence_ms, context.spec.progress)

    def receive(self, message: WorkerMessage) -> None:
        """One message of a worker."""
        header, worker = message.header, message.worker
        if isinstance(header, Register):
            self._register(worker, header)
            return
        if worker == self._context.catalogue.worker:
            self._librarian.receive(message)
            return
        device = self._context.fleet.by_worker(worker)
        if device is None:
            self._context.log("warning", "message from an unknown worker", worker=worker.hex())
            self._context.emit(SendWorker(worker, Welcome(epoch=self._context.epoch)))
            return
        device.heard_at = self._context.clock()
        match header:
            case Beat():
                device.progress_count = header.progress_count
            case Report():
                self._report(device, header)
            case ModelChanged():
                note_eviction(device.running, header)
                self._context.bulletin.model(device.device_id, header)
            case JobUpdate():
                self._update(device, header, message.body)
            case Farewell():
                self._condemn(device, header.reason)
            case _:
                self._context.log("warning", "a device sent what only the catalogue sends", device=device.device_id)

    # registration

    def _register(self, worker: bytes, header: Register) -> None:
        context = self._context
        if header.device is None:
            self._librarian.register(worker, header)
            return
        device = context.fleet.devices.get(header.device.device_id)
        if device is None or header.generation < device.generation:
            context.log("warning", "a worker nobody expects", worker=worker.hex(), generation=header.generation)
            return
        if device.worker is not None and device.worker != worker:
            self._lose(device, "another worker took the device over")
        context.fleet.connect(device, worker, header.device)
        device.generation = header.generation
        device.pid = header.pid
        device.heard_at = context.clock()
        device.started_at = device.started_at or device.heard_at
        device.ready = header.ready
        context.fleet.weigh(device)
        device.lost_because = ""
        context.devices_changed = True
        context.emit(SendWorker(worker, Welcome(epoch=context.epoch)))
        context.log("info", "worker registered", device=device.device_id, generation=header.generation)
        context.bulletin.worker(device, draining=context.draining, reason="registered")
        if device.ready:
            self._tell_ready(device)
        for held in header.holding:
            self._adoption.adopt(held, worker, device)
        self._accounted_for(device.device_id)
        self._dispatch.pump(device)

    def _accounted_for(self, device_id: str) -> None:
        """A survivor of the last epoch has spoken, or is gone: once all are, what waited for them is placed."""
        survivors = self._context.survivors
        if device_id in survivors:
            survivors.discard(device_id)
            if not survivors:
                self._adoption.settle()
                self._intake.decide_waiting()

    def recall(self, unfinished: list[Accepted]) -> None:
        """Take up what the last broker owed an outcome."""
        for accepted in unfinished:
            if accepted.began:
                self._adoption.expect(accepted)
            else:
                self._intake.resume(accepted)
        if not self._context.survivors:
            self._adoption.settle()

    def end_absent(self, _: float) -> None:
        """End survivors that have not registered: what they may hold is given out only once they are gone."""
        for device_id in self._context.survivors:
            generation = self._context.fleet.devices[device_id].generation
            kill = KillChild(child=device_id, generation=generation, reason="it did not register with the new broker")
            self._context.emit(TellSupervisor(kill))

    # what devices say

    def _report(self, device: Device, header: Report) -> None:
        context = self._context
        if header.telemetry is not None:
            device.observe(header.telemetry)
            context.bulletin.telemetry(device.device_id, header.telemetry)
        if header.models is not None:
            context.fleet.hold(device, header.models)
            context.devices_changed = True
        if header.ready and not device.ready:
            device.ready = True
            context.fleet.weigh(device)
            context.devices_changed = True
            self._tell_ready(device)
            context.log("info", "worker ready", device=device.device_id)
            context.bulletin.worker(device, draining=context.draining, reason="ready")
        if header.leaked_bytes:
            renew(device, f"recycled: {header.leaked_bytes} bytes of its memory did not come back", context)
        self._dispatch.pump(device)

    def _tell_ready(self, device: Device) -> None:
        self._context.emit(TellSupervisor(ChildReady(child=device.device_id, generation=device.generation)))

    def _note_served(self, device: Device) -> None:
        """The supervisor is told once of each incarnation that it did some work."""
        if device.served_generation != device.generation:
            device.served_generation = device.generation
            self._context.emit(TellSupervisor(ChildServed(child=device.device_id, generation=device.generation)))

    def _update(self, device: Device, update: JobUpdate, body: tuple[bytes, ...]) -> None:
        job = device.control.get(update.request_id) or device.running
        if job is None or job.request_id != update.request_id or job.attempt != update.attempt:
            self._context.log("info", "a reply that nobody waits for", request_id=update.request_id)
            return
        learn(job, device, update, self._context)
        if update.state is ReplyState.PROGRESS:
            self._answers.progress(job, update, body)
            return
        if update.success:
            self._context.quarantine.absolve(job)
        saved = update.facts.saved if update.success and update.facts is not None else None
        if saved is None:
            self._endings.finish(job, update, body)
        else:
            finish = partial(self._endings.finish, job, update, body)
            once_known(saved, job, self._context, dispatch=self._dispatch, answers=self._answers, finish=finish)
        self._librarian.record_usage(job, device, update)
        self._note_served(device)
        self._dispatch.release(job)
        proceed(device, self._context)
        self._context.bulletin.worker(device, draining=self._context.draining, reason=f"{job.action.name} ended")

    # life and death

    def started(self, line: ChildStarted) -> None:
        """The supervisor started a process."""
        device = self._context.fleet.devices.get(line.child)
        if device is None:
            return
        device.generation = max(device.generation, line.generation)
        device.pid = line.pid
        device.restarts = line.restarts
        device.disabled = False
        device.lost_because = ""
        self._context.bulletin.worker(device, draining=self._context.draining, reason="started")

    def exited(self, line: ChildExited) -> None:
        """The supervisor saw a process end."""
        if line.child == CATALOG_ID:
            self._librarian.exited(line.generation, line.reason)
            return
        device = self._context.fleet.devices.get(line.child)
        if device is None or line.generation < device.generation:
            return
        device.generation = line.generation
        device.disabled = not line.restarting
        device.restarts = max(device.restarts, line.restarts)
        self._lose(device, line.reason)
        self._accounted_for(device.device_id)

    def unreachable(self, worker: bytes) -> None:
        """A send found no route: the process may be gone, or only its connection; the supervisor makes sure."""
        device = self._context.fleet.by_worker(worker)
        if device is not None:
            self._condemn(device, "its link is gone")
        elif worker == self._context.catalogue.worker:
            self._librarian.condemn("its link is gone")

    def recycle(self, line: RecycleChild) -> None:
        """The supervisor wants a worker replaced."""
        device = self._context.fleet.devices.get(line.child)
        if device is not None and device.connected and device.generation == line.generation:
            renew(device, f"recycled: {line.reason}", self._context)

    def watch(self, now: float) -> None:
        """Give up workers that are silent, or whose device's thread is stuck."""
        vitals = self._vitals
        vitals.look(now)
        for device in self._context.fleet.devices.values():
            if not device.connected:
                continue
            if device.drained:
                self._context.bulletin.worker(device, draining=self._context.draining, reason="it has no work left")
            reason = vitals.silent(device.heard_at, now)
            reason = reason or vitals.stuck(device.device_id, _work_of(device), device.progress_count, now)
            if reason is not None:
                self._condemn(device, reason)
            else:
                proceed(device, self._context)
        self._librarian.watch(vitals, now)

    def _condemn(self, device: Device, reason: str) -> None:
        kill = KillChild(child=device.device_id, generation=device.generation, reason=reason)
        self._context.emit(TellSupervisor(kill))
        self._lose(device, reason)

    def _lose(self, device: Device, reason: str) -> None:
        context = self._context
        held = dict(device.models)
        running = None if device.renew_because else device.running
        jobs = context.fleet.disconnect(device, reason)
        context.devices_changed = True
        context.queue_changed = True
        if not context.draining:
            context.log("warning", "worker lost", device=device.device_id, reason=reason)
        context.bulletin.worker(device, draining=context.draining, reason=reason)
        for model in held.values():
            if model.tier is not Tier.DISK:
                context.bulletin.model_lost(device.device_id, model.model_id, model.tier)
        for job in jobs:
            text = f"the worker of {device.device_id} was lost while it ran {job.action.name}: {reason}"
            self._endings.lost(job, text, died=job is running)
        self._requeue(device)

    def _requeue(self, device: Device) -> None:
        """Queued commands that may go elsewhere do; the others wait, unless no worker will come."""
        for job in list(device.queue):
            anywhere = job.command.device_id in ("", "auto") and job.on_final is None
            if anywhere or device.disabled:
                device.queue.remove(job)
                self._context.fleet.give(job, device)
                self._intake.replace(job)


def _work_of(device: Device) -> tuple[str, int, str] | None:
    """What a device's thread has to advance with."""
    if not device.ready:
        return STARTING
    job = device.running
    return None if job is None else (job.request_id, job.attempt, job.action.name)
