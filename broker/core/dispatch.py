"""From a placed job to its worker: queues and credit, deadlines, cancellation, the catalogue's commands.

A device executes one command of its lane at a time; control commands go to its worker at once.
"""

from __future__ import annotations

from broker.core.ahead import Ahead
from broker.core.answers import Answers
from broker.core.bounds import check_catalogue, check_control, check_device
from broker.core.context import Context
from broker.core.events import SendWorker, TellSupervisor
from broker.core.finals import Accepted
from broker.core.fleet import Device
from broker.core.jobs import Job, read_final
from protocol import commands as c
from protocol.actions import BY_COMMAND
from protocol.codec import encode_command
from protocol.enums import CancelOutcome, Encoding, JobState, Lane
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import Assign, CancelJob, Devices, Spelling
from protocol.replies import FailedReply, Reply
from protocol.supervision import KillChild
from protocol.telemetry import DeviceReport

GRACE_SECONDS = 2.0
"""How long a command that was asked to stop may take to answer for itself."""

KILL_SECONDS = 30.0
"""How long a worker may keep working on a command that was answered for it."""


class Dispatch:
    """Moves jobs between queues and workers."""

    def __init__(self, context: Context, answers: Answers) -> None:
        self._context = context
        self._answers = answers
        self._ahead = Ahead(context)
        self._catalog_waiting: list[Job] = []

    def own_command(self, command: c.Command, behalf: Job) -> Job:
        """A command of the broker's own, on behalf of a client's; its id is one that no client can send."""
        job = self._own(command, behalf.request_id, behalf.client, behalf.arrived)
        job.deadline = behalf.deadline
        return job

    def house_command(self, command: c.Command, name: str, now: float) -> Job:
        """A command of the broker's own on nobody's behalf; it ends at its action's own deadline."""
        job = self._own(command, name, b"", now)
        job.deadline = now + job.action.timeout_seconds
        job.timer = self._context.timers.at(job.deadline, lambda _: self.expire(job))
        return job

    def _own(self, command: c.Command, name: str, client: bytes, arrived: float) -> Job:
        number = self._context.new_id()
        job = Job(
            f"{name} {number}",
            command,
            BY_COMMAND[type(command)],
            client=client,
            body=(encode_command(command, Encoding.MSGPACK),),
            spelling=Spelling(encoding=Encoding.MSGPACK),
            arrived=arrived,
            warnings=[],
        )
        self._context.jobs.add(job)
        return job

    def outcome(self, job: Job) -> Reply:
        """The final reply of a command of the broker's own; a failure where its worker wrote none that can be read."""
        assert job.final is not None
        try:
            return read_final(job.final)
        except Fault:
            text = f"{job.action.name} ended with a reply that cannot be read"
            error = Fault(ErrorCode.INTERNAL_ERROR, text).info
            return FailedReply(request_id=job.request_id, action=job.action.name, message=text, error=error)

    # devices

    def to_device(self, job: Job, device: Device) -> None:
        """Queue a job for a device, or hand it to its worker's control lane. Raises Fault."""
        job.device_id = device.device_id
        if job.action.lane is Lane.CONTROL:
            self._control(job, device)
            return
        if device.disabled:
            raise Fault(ErrorCode.DEVICE_UNAVAILABLE, f"device_id is '{device.device_id}': {device.lost_because}")
        if device.drained and not isinstance(job.command, c.UnloadModel):
            raise Fault(ErrorCode.DRAINING, f"device_id is '{device.device_id}': it was drained and takes no new work")
        check_device(device, self._context)
        self._enqueue(job, device)
        self._context.queue_changed = True
        if job.on_final is None:
            self._context.bulletin.job(job)
        if device.running is not None:
            self._ahead.look(device)
        self.pump(device)

    def _enqueue(self, job: Job, device: Device) -> None:
        self._context.jobs.wait(job)
        command = job.command
        if isinstance(command, c.UnloadModel) and (command.force or command.force_unload):
            device.queue.push_urgent(job)
            running = device.running
            if running is not None and running.model_id == job.model_id:
                text = f"{job.model_id} is unloaded by force (request {job.wire_id})"
                self.stop_running(running, device, ErrorCode.CANCELLED, text)
        else:
            device.queue.push(job)
        self._context.fleet.take(job, device)

    def _control(self, job: Job, device: Device) -> None:
        if device.worker is None or not device.ready:
            state = device.state(draining=self._context.draining).value
            raise Fault(ErrorCode.DEVICE_UNAVAILABLE, f"device_id is '{device.device_id}': it is {state}")
        check_control(job, device, self._context)
        if self._late(job):
            return
        device.control[job.request_id] = job
        self._context.jobs.wait(job)
        self._context.jobs.start(job)
        self._assign(job, device.worker)

    def pump(self, device: Device) -> None:
        """Give a free device its next command."""
        if device.running is not None or device.worker is None or not device.ready or device.renew_because:
            return
        job = self._next(device)
        if job is None:
            return
        device.running = job
        self._context.jobs.start(job)
        job.started = self._context.wall()
        for follower in job.followers:
            follower.state = JobState.RUNNING
        now = self._context.clock()
        device.ends_at = now + job.estimate_ms / 1000.0
        if job.decision is not None:
            job.decision.started_at = now
        self._context.queue_changed = True
        self._assign(job, device.worker)
        self._ahead.look(device)
        if job.on_final is None:
            self._context.bulletin.job(job)

    def _next(self, device: Device) -> Job | None:
        """The job whose turn it is. One whose deadline passed while nobody looked ends here, and is never begun."""
        now = self._context.clock()
        while (job := device.queue.pop(device.is_warm_for)) is not None:
            try:
                self._context.quarantine.check(job, now)
            except Fault as fault:
                self._context.fleet.give(job, device)
                self._answers.fail(job, fault.info)
                continue
            if not self._late(job):
                return job
            self._context.fleet.give(job, device)
        return None

    def _late(self, job: Job) -> bool:
        """Whether a command's deadline passed while nobody looked: it ends here."""
        if job.deadline is None or self._context.clock() < job.deadline:
            return False
        self.expire(job)
        return True

    def _assign(self, job: Job, worker: bytes) -> None:
        action = job.action
        if action.lane is Lane.DEVICE and not action.idempotent and job.on_final is None:
            begun = Accepted(job.request_id, job.client, job.body[:1], job.spelling, job.digests(), began=True)
            self._context.store.accept(begun)
            job.began = True
        job.attempt += 1
        job.worker = worker
        now = self._context.clock()
        header = Assign(
            request_id=job.request_id,
            attempt=job.attempt,
            lane=job.action.lane,
            action=job.action.name,
            spelling=job.spelling,
            warnings=job.warnings,
            queue_ms=(now - job.arrived) * 1000.0,
            deadline_ms=None if job.deadline is None else (job.deadline - now) * 1000.0,
            stream_progress=job.leads or (job.command.stream_progress and bool(job.waiters)),
            device_id=job.device_id,
            model=job.model,
            source=job.source,
        )
        self._context.emit(SendWorker(worker, header, job.body))

    def release(self, job: Job) -> None:
        """A worker is done with a job: its device is free for the next."""
        device = self._context.fleet.devices.get(job.device_id)
        if device is None:
            return
        device.control.pop(job.request_id, None)
        if device.running is job:
            device.running = None
            self._context.fleet.give(job, device)
            self._context.queue_changed = True
            self.pump(device)

    # ending early

    def expire(self, job: Job) -> None:
        """A deadline has come."""
        limit = job.command.timeout_seconds or job.action.timeout_seconds
        text = f"{job.action.name} was not done within timeout_seconds = {limit:g}"
        self.end_early(job, Fault(ErrorCode.TIMEOUT, text).info)

    def end_early(self, job: Job, error: ErrorInfo) -> CancelOutcome:
        """End a queued job now, ask a running one to stop at its next step."""
        context = self._context
        if context.jobs.live(job.request_id) is not job:
            return CancelOutcome.ALREADY_FINISHED
        if job.parts:
            return self._end_parts(job, error)
        device = context.fleet.devices.get(job.device_id)
        if device is not None and device.running is job and not job.followers:
            self.stop_running(job, device, error.code, error.message)
            return CancelOutcome.CANCELLING
        if job.action.lane is Lane.CATALOG and job.worker is not None:
            header = CancelJob(request_id=job.request_id, attempt=job.attempt, code=error.code, reason=error.message)
            context.emit(SendWorker(job.worker, header))
        if device is None or device.running is not job:
            self.withdraw(job)
        self._answers.fail(job, error)
        return CancelOutcome.CANCELLED

    def withdraw(self, job: Job) -> None:
        """Take a job out of wherever it waits."""
        device = self._context.fleet.devices.get(job.device_id)
        if device is not None:
            if device.queue.remove(job):
                self._context.fleet.give(job, device)
                self._ahead.look(device)
            device.control.pop(job.request_id, None)
            self._context.queue_changed = True
        if job in self._catalog_waiting:
            self._catalog_waiting.remove(job)
        self._context.coalescing.leave(job)

    def _end_parts(self, job: Job, error: ErrorInfo) -> CancelOutcome:
        """A command on several devices ends when the last of its parts has."""
        for part in job.parts:
            self.end_early(part, error)
        return CancelOutcome.CANCELLING if self._context.jobs.live(job.request_id) is job else CancelOutcome.CANCELLED

    def stop_running(self, job: Job, device: Device, code: ErrorCode, reason: str) -> None:
        """Ask the worker to stop; answer for it after a grace, and end it when even that does not help."""
        if job.cancelling or job.worker is None:
            return
        job.cancelling = True
        context = self._context
        header = CancelJob(request_id=job.request_id, attempt=job.attempt, code=code, reason=reason)
        context.emit(SendWorker(job.worker, header))
        now, generation = context.clock(), device.generation
        context.timers.at(now + GRACE_SECONDS, lambda _: self._answers.fail(job, Fault(code, reason).info))
        context.timers.at(now + KILL_SECONDS, lambda _: self._kill_stuck(job, device, generation))

    def _kill_stuck(self, job: Job, device: Device, generation: int) -> None:
        if device.running is job and device.generation == generation:
            reason = f"{job.action.name} did not stop within {KILL_SECONDS:g} s"
            self._context.emit(TellSupervisor(KillChild(child=device.device_id, generation=generation, reason=reason)))

    # the catalogue

    def to_catalog(self, job: Job) -> None:
        """Hand a job to the catalogue, or keep it until there is one; one whose deadline passed while nobody looked
        ends here. Raises Fault QUEUE_FULL."""
        context = self._context
        worker = context.catalogue.worker
        if self._late(job):
            return
        check_catalogue(job, context)
        context.catalogue.unanswered.add(job.request_id)
        context.jobs.wait(job)
        if worker is None:
            self._catalog_waiting.append(job)
            return
        context.jobs.start(job)
        if context.devices_changed:
            self._show_devices(worker)
        self._assign(job, worker)

    def _show_devices(self, worker: bytes) -> None:
        """Tell the catalogue how the devices stand."""
        self._context.devices_changed = False
        draining = self._context.draining
        reports = [
            DeviceReport(
                identity=device.identity, state=device.state(draining=draining), models=list(device.models.values())
            )
            for device in self._context.fleet.devices.values()
            if device.identity is not None
        ]
        self._context.emit(SendWorker(worker, Devices(devices=reports)))

    def resume_catalog(self) -> None:
        """The catalogue is connected: send what waited for it."""
        waiting, self._catalog_waiting = self._catalog_waiting, []
        for job in waiting:
            self.to_catalog(job)

    def lose_catalog(self) -> list[Job]:
        """The catalogue is gone: its running commands are returned."""
        return [job for job in self._context.jobs if job.action.lane is Lane.CATALOG and job.worker is not None]

    def catalog_job(self, request_id: str) -> Job | None:
        """The job that the catalogue works on under this id."""
        job = self._context.jobs.live(request_id)
        return job if job is not None and job.action.lane is Lane.CATALOG else None
