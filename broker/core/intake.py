"""From frames to a job on its way: decode, recognise repeats, find the model and the device.

The order of checks is the wire's: payload, action, parameters, device, model; memory is the worker's.
"""

from __future__ import annotations

from broker.core.admin import check_allowed
from broker.core.answers import Answers
from broker.core.bounds import check_room
from broker.core.context import Context
from broker.core.desk import Desk
from broker.core.dispatch import Dispatch
from broker.core.events import ClientMessage
from broker.core.finals import Accepted, Final
from broker.core.fleet import Device
from broker.core.jobs import Job, Waiter, answers
from broker.core.placement import follow, place
from broker.core.queues import BY_PRIORITY
from broker.core.quotas import Sender
from broker.core.refusals import check_mode
from broker.core.refusals import leaving as leaving_now
from broker.core.together import act_on_all
from modelfiles.profiles import SUFFIX as PROFILE_SUFFIX
from protocol import commands as c
from protocol.actions import BY_COMMAND
from protocol.checks import check_attachments, optimized_name
from protocol.codec import NO_LIMITS, Decoded, Refused, decode_command
from protocol.enums import JobState, Lane, ModelStatus, ModelType, OptimizationLevel
from protocol.errors import ErrorCode, Fault, Recovery, in_use, invalid
from protocol.link import ModelRef, ProfileFigures
from protocol.replies import RegisterModelReply

_ANSWERED_AT_ONCE = "wait_for_completion: false changes nothing for this action: it is answered at once"
_ON_HOLDER = (c.UnloadModel, c.PinModel, c.UnpinModel, c.LoadComponent, c.UnloadComponent, c.ListComponents)


class Intake:
    """Takes clients' messages in. Raises nothing."""

    def __init__(self, context: Context, answers: Answers, dispatch: Dispatch, desk: Desk) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch
        self._desk = desk

    def receive(self, message: ClientMessage, arrived: float) -> None:
        """One message of a client."""
        context = self._context
        payload = message.payload
        try:
            decoded = decode_command(payload, context.limits)
        except Refused as refused:
            spelling = context.conventions.resolve(message.client, refused.encoding, refused.shown)
            self._answers.refuse(Waiter(message.client, message.envelope, spelling), refused, arrived)
            return
        command = decoded.command
        spelling = context.conventions.spelling(message.client, decoded, payload)
        waiter = Waiter(message.client, message.envelope, spelling, command.stream_progress)
        body = (payload, *message.attachments)
        sender = message.sender
        if sender is not None and not self._may_send(sender, decoded, body, waiter, arrived):
            return
        request_id = command.request_id
        if sender is not None and request_id is not None:
            request_id = sender.scope + request_id
        if request_id is not None and self._repeated(request_id, decoded, body, waiter, arrived):
            return
        job = self._new_job(decoded, waiter, body, arrived)
        if sender is not None:
            job.sender, job.request_id = sender, request_id or sender.scope + job.request_id
        self._begin(job, answered_early=not command.wait_for_completion and job.action.stored)

    def resume(self, accepted: Accepted) -> None:
        """Take up a command that a former broker accepted: nobody waits for its reply, `get_result` finds it."""
        context = self._context
        try:
            decoded = decode_command(accepted.body[0], NO_LIMITS)
        except Refused:
            context.log("error", "an accepted command cannot be read again", request_id=accepted.request_id)
            context.store.keep(Final.damaged(accepted.request_id, context.clock()))
            return
        waiter = Waiter(accepted.client, (), accepted.spelling)
        job = self._new_job(decoded, waiter, accepted.body, context.clock() - accepted.age_seconds)
        job.waiters, job.request_id = [], accepted.request_id
        self._begin(job, answered_early=False)

    def decide_waiting(self) -> None:
        """The catalogue and the surviving workers are known now: place what waited for them, by priority."""
        waiting, self._context.undecided = self._context.undecided, {}
        for job in sorted(waiting.values(), key=lambda job: BY_PRIORITY.index(job.command.priority)):
            if job.worker is None:
                self.replace(job)

    def replace(self, job: Job) -> None:
        """Place a job, again where its device or its leader was lost."""
        if self._context.jobs.live(job.request_id) is not job:
            return
        job.state = JobState.QUEUED
        try:
            self._route(job)
        except Fault as fault:
            self._answers.fail(job, fault.info)

    def _new_job(self, decoded: Decoded, waiter: Waiter, body: tuple[bytes, ...], arrived: float) -> Job:
        command = decoded.command
        action = BY_COMMAND[type(command)]
        warnings = decoded.warnings
        if not command.wait_for_completion and not action.stored:
            warnings = [*warnings, _ANSWERED_AT_ONCE]
        return Job(
            command.request_id or self._context.new_id(),
            command,
            action,
            waiter.client,
            body,
            waiter.spelling,
            arrived,
            warnings,
            [waiter],
            deadline=arrived + (command.timeout_seconds or action.timeout_seconds),
        )

    def _may_send(
        self, sender: Sender, decoded: Decoded, body: tuple[bytes, ...], waiter: Waiter, arrived: float
    ) -> bool:
        """Is this message within its key's quotas? It is answered where not."""
        try:
            self._context.quotas.check(sender, sum(map(len, body)), arrived)
        except Fault as fault:
            self._refuse(fault, decoded, waiter, arrived)
            return False
        return True

    def _refuse(self, fault: Fault, decoded: Decoded, waiter: Waiter, arrived: float) -> None:
        """Answer a command that becomes no job."""
        command = decoded.command
        name = BY_COMMAND[type(command)].name
        refused = Refused(
            fault.info, decoded.encoding, request_id=command.request_id, action=name, warnings=decoded.warnings
        )
        self._answers.refuse(waiter, refused, arrived)

    def _repeated(
        self, request_id: str, decoded: Decoded, body: tuple[bytes, ...], waiter: Waiter, arrived: float
    ) -> bool:
        """Join, answer or refuse a request id that is known already."""
        context, command = self._context, decoded.command
        live = context.jobs.live(request_id)
        final = context.store.find(request_id) if live is None else None
        if live is not None and live.same_meaning(command, body):
            if command.wait_for_completion or not live.action.stored:
                live.waiters.append(waiter)
            else:
                self._answers.accept(live, waiter)
        elif final is not None and final.is_damaged:
            text = (
                f"request_id {command.request_id} was answered; its reply is damaged on disk, and it is not run again"
            )
            fault = Fault(ErrorCode.INTERNAL_ERROR, text, details={"request_id": command.request_id})
            self._refuse(fault, decoded, waiter, arrived)
        elif final is not None and answers(final, command, body):
            self._answers.repeat(final, waiter)
        elif live is not None or final is not None:
            text = f"request_id {command.request_id} is in use for another command"
            fault = Fault(ErrorCode.DUPLICATE_REQUEST, text, details={"request_id": command.request_id})
            self._refuse(fault, decoded, waiter, arrived)
        else:
            return False
        return True

    def _begin(self, job: Job, *, answered_early: bool) -> None:
        """Bring a job on its way, or end it with the reason why not."""
        context = self._context
        context.jobs.add(job)
        try:
            self._admit(job)
            self._route(job)
        except Fault as fault:
            self._answers.fail(job, fault.info)
        if job.state is JobState.FINAL:
            return
        assert job.deadline is not None
        job.timer = context.timers.at(job.deadline, lambda _: self._dispatch.expire(job))
        if answered_early:
            self._answers.accepted(job)

    def _admit(self, job: Job) -> None:
        context, action = self._context, job.action
        if job.sender is not None and action.stored:
            context.quotas.begin(job.sender, job.arrived)
        if len(job.body) > 1 or job.command.attachments:
            check_attachments(job.command.attachments, [len(frame) for frame in job.body[1:]], context.limits)
        if action.lane is Lane.ADMIN:
            check_allowed(action.name, job.sender, context)
        if context.draining and action.lane not in (Lane.BROKER, Lane.CONTROL):
            raise Fault(ErrorCode.DRAINING, "the broker is stopping: it takes no new work")
        if action.lane is Lane.DEVICE:
            context.quarantine.check(job, job.arrived)
        if action.stored and context.coalescing.leader_of(job) is None:
            check_room(job, context)

    def _undecidable(self, job: Job) -> None:
        self._context.jobs.wait(job)
        self._context.undecided[job.request_id] = job

    def _route(self, job: Job) -> None:
        """Send a job to its lane, or let it wait for the catalogue. Raises Fault."""
        named = self._named_device(job)
        match job.action.lane:
            case Lane.BROKER if isinstance(job.command, c.Plan) and not self._context.catalogue.ready:
                self._undecidable(job)
            case Lane.BROKER:
                self._desk.answer(job)
            case Lane.ADMIN if named is not None:
                self._desk.administer(job, named)
            case Lane.CATALOG if isinstance(job.command, c.UnregisterModel) and self._context.survivors:
                self._undecidable(job)
            case Lane.CATALOG:
                self._check_unused(job)
                self._dispatch.to_catalog(job)
            case _ if isinstance(job.command, c.GetVramModelStatus) and self._unknown_yet(job.command.model_id):
                self._undecidable(job)
            case _ if isinstance(job.command, c.Cancel | c.GetVramModelStatus):
                self._desk.answer(job)
            case _:
                self._with_model(job, named)

    def _unknown_yet(self, model_id: str) -> bool:
        """Could the catalogue still name this model?"""
        catalogue = self._context.catalogue
        return bool(model_id) and not catalogue.ready and model_id not in catalogue.models

    def _named_device(self, job: Job) -> Device | None:
        name = job.command.device_id
        if name in ("", "auto"):
            return None
        device = self._context.fleet.find(name)
        if device is None:
            known = list(self._context.fleet.devices)
            text = f"device_id is '{name[:80]}': there is no such device (there are {', '.join(known) or 'none'})"
            recovery = [Recovery(action="list_devices", description="list the devices", parameters={})]
            raise Fault(ErrorCode.DEVICE_NOT_FOUND, text, details={"device_ids": known}, recovery=recovery)
        return device

    def _with_model(self, job: Job, named: Device | None) -> None:
        command = job.command
        assert isinstance(command, c.ModelCommand)
        catalogue = self._context.catalogue
        if self._context.survivors:
            self._undecidable(job)
            return
        job.model = catalogue.models.get(command.model_id)
        path = command.model_path if isinstance(command, c.LoadFields) else ""
        if job.model is None and isinstance(command, c.ValidateModel) and command.model_path and catalogue.ready:
            job.model = _unregistered(command)
        if not catalogue.ready and (job.model is None or path):
            self._undecidable(job)
        elif path and (job.model is None or job.model.path != path):
            self._register_first(job, named, command.model_id, path)
        else:
            self._to_device(job, named)

    def _register_first(self, job: Job, named: Device | None, model_id: str, path: str) -> None:
        """Let the catalogue register the file that a load names, then go on with the load."""
        model_type = job.command.model_type if isinstance(job.command, c.LoadFields) else ""
        command = c.RegisterModel(model_id=model_id, model_path=path, model_type=model_type)
        inner = self._dispatch.own_command(command, job)

        def registered(done: Job, _: float) -> None:
            if self._context.jobs.live(job.request_id) is not job:
                return
            reply = self._dispatch.outcome(done)
            job.parts = []
            job.warnings.extend(reply.warnings)
            if isinstance(reply, RegisterModelReply):
                job.model = self._context.catalogue.models.get(reply.model_id)
            try:
                if reply.error is not None:
                    raise Fault.of(reply.error)
                self._to_device(job, named)
            except Fault as fault:
                self._answers.fail(job, fault.info)

        inner.on_final = registered
        job.parts = [inner]
        try:
            self._dispatch.to_catalog(inner)
        except Fault as fault:
            self._answers.fail(inner, fault.info)

    def _to_device(self, job: Job, named: Device | None) -> None:
        command = job.command
        assert isinstance(command, c.ModelCommand)
        self._check_leaving(command.model_id)
        self._check_model(job, command.model_id)
        context = self._context
        if isinstance(command, c.OptimizeModel):
            self._check_name(command)
        if isinstance(command, c.LoadComponent) and command.source_model_id:
            job.source = self._source_of(command.source_model_id)
        if context.coalescing.join(job):
            follow(job, context)
            return
        if not isinstance(command, _ON_HOLDER):
            self._dispatch.to_device(job, place(job, named, context))
        elif named is not None:
            self._dispatch.to_device(job, named)
        else:
            holders = context.fleet.holders(job.model_id)
            act_on_all(job, holders, context, self._dispatch, self._answers)

    def _check_name(self, command: c.OptimizeModel) -> None:
        """Raise Fault INVALID_ARGUMENT where the model that is to be saved would have another's id."""
        if not command.save_optimized or command.level is OptimizationLevel.NONE:
            return
        name = optimized_name(command)
        if name in self._context.catalogue.models:
            raise invalid("optimized_model_name", name, "a name that no model has")

    def _source_of(self, model_id: str) -> ModelRef:
        """The model that a part is to come from. Raises Fault MODEL_NOT_FOUND."""
        catalogue = self._context.catalogue
        found = catalogue.models.get(model_id)
        if found is None:
            raise catalogue.unknown(model_id, "source_model_id")
        return found

    def _check_unused(self, job: Job) -> None:
        """A model that a device holds, or that work in flight brings there, is not unregistered."""
        if not isinstance(job.command, c.UnregisterModel):
            return
        model_id = job.command.model_id
        near = self._context.fleet.near(model_id)
        if near:
            raise in_use(model_id, [device.device_id for device in near])
        self._context.catalogue.leaving[model_id] = job.request_id

    def _check_leaving(self, model_id: str) -> None:
        leaving = self._context.catalogue.leaving
        request_id = leaving.get(model_id)
        if request_id is None:
            return
        job = self._context.jobs.live(request_id)
        if job is not None:
            raise leaving_now(model_id, job.wire_id)
        del leaving[model_id]

    def _check_model(self, job: Job, model_id: str) -> None:
        model = job.model
        if model is None:
            raise self._context.catalogue.unknown(model_id)
        gone = model.status is ModelStatus.Missing and not isinstance(job.command, c.ValidateModel)
        if gone and not self._context.fleet.holders(model_id):
            raise Fault(ErrorCode.MODEL_NOT_FOUND, f"model_id is '{model_id}': its file is missing")
        if isinstance(job.command, c.Generate):
            check_mode(job.command, model)


def _unregistered(command: c.ValidateModel) -> ModelRef:
    """The file that a validation names and the catalogue need not know; a worker looks at what it is."""
    is_profile = command.model_path.lower().endswith(PROFILE_SUFFIX)
    return ModelRef(
        model_id=command.model_id,
        path=command.model_path,
        type=ModelType.Unknown,
        size_bytes=0,
        status=ModelStatus.Unknown,
        profile=ProfileFigures(load_ms=0.0, step_ms=0.0, peak_bytes=0) if is_profile else None,
    )
