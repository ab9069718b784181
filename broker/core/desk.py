"""The commands that the broker answers itself, at once, from what it knows."""

from __future__ import annotations

from msgspec import UNSET

from broker.core.admin import Admin
from broker.core.answers import Answers
from broker.core.census import BOUNDS_SECONDS
from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.explain import explanation, plan
from broker.core.fleet import Device
from broker.core.jobs import Job, read_final
from broker.core.prefixes import whole
from broker.core.status import model_status
from protocol import commands as c
from protocol import replies as r
from protocol.actions import ACTIONS
from protocol.enums import CancelOutcome, JobState
from protocol.errors import ErrorCode, Fault

SERVER = "vrambroker"
MOST_WAITING = 32
"""Commands named of those that wait for one device."""


class Desk:
    """One method for each command."""

    def __init__(self, context: Context, answers: Answers, dispatch: Dispatch) -> None:
        self._context = context
        self._answers = answers
        self._dispatch = dispatch
        self._admin = Admin(context, answers, dispatch)

    def administer(self, job: Job, device: Device) -> None:
        """Answer an administrator's command about a device."""
        self._admin.answer(job, device)

    def answer(self, job: Job) -> None:
        """Answer a command of the broker's own. Raises Fault."""
        whole(job, self._context)
        match job.command:
            case c.Ping():
                self._ping(job)
            case c.Hello():
                self._hello(job, job.command)
            case c.ListDevices():
                self._list_devices(job)
            case c.GetResult():
                self._get_result(job, job.command)
            case c.Cancel():
                self._cancel(job, job.command)
            case c.Plan():
                self._answers.reply(job, plan(job, job.command, self._context))
            case c.Explain():
                self._answers.reply(job, explanation(job, job.command, self._context))
            case c.GetVramModelStatus():
                self._answers.reply(job, model_status(job, job.command, self._context))
            case _:
                raise Fault(ErrorCode.NOT_SUPPORTED, f"{job.action.name} has no answer here")

    def _ping(self, job: Job) -> None:
        context = self._context
        reply = r.PingReply(
            request_id=job.request_id,
            action=job.action.name,
            message="pong",
            time=context.wall(),
            epoch=context.epoch,
        )
        self._answers.reply(job, reply)

    def _hello(self, job: Job, command: c.Hello) -> None:
        context = self._context
        if command.conventions is not None:
            context.conventions.set(job.client, command.conventions)
        reply = r.HelloReply(
            request_id=job.request_id,
            action=job.action.name,
            message=f"{SERVER} {context.spec.version}",
            server=SERVER,
            version=context.spec.version,
            epoch=context.epoch,
            actions=list(ACTIONS),
            limits=context.limits,
            conventions=c.Conventions(naming=job.spelling.naming, enums=job.spelling.enums),
            events=context.spec.events,
            statistics=self._statistics() if command.statistics else UNSET,
        )
        self._answers.reply(job, reply)

    def _statistics(self) -> r.Statistics:
        context = self._context
        return r.Statistics(
            bounds_seconds=list(BOUNDS_SECONDS),
            commands=context.census.told(),
            queued=context.jobs.queued_total,
            draining=context.draining,
        )

    def _list_devices(self, job: Job) -> None:
        context = self._context
        wanted = context.fleet.find(job.command.device_id)
        devices = [wanted] if wanted is not None else list(context.fleet.devices.values())
        now = context.clock()
        reply = r.ListDevicesReply(
            request_id=job.request_id,
            action=job.action.name,
            message=f"{len(devices)} devices",
            warnings=[f"{device.device_id} {why}" for device in devices if (why := device.trouble)],
            devices=[device.info(now, draining=context.draining) for device in devices],
            waiting=[_waiting(waits, device) for device in devices for waits in device.queue.upcoming(MOST_WAITING)],
        )
        self._answers.reply(job, reply)

    def _get_result(self, job: Job, command: c.GetResult) -> None:
        target_id = job.scope + command.target_request_id
        final = self._context.store.find(target_id)
        if final is not None and final.is_damaged:
            text = "it was answered, and its reply is damaged on disk: it cannot be shown again"
            self._answers.reply(job, self._result(job, JobState.FINAL, text, warnings=[text]))
            return
        if final is not None:
            result = read_final(final)
            attachments = result.attachments if isinstance(result, r.GenerateReply) else []
            reply = self._result(job, JobState.FINAL, result.message, result=result, attachments=attachments)
            self._answers.reply(job, reply, final.attachments)
            return
        target = self._context.jobs.live(target_id)
        if target is None or not target.action.stored:
            reply = self._result(job, JobState.UNKNOWN, "no stored result and nothing under way under this id")
            self._answers.reply(job, reply)
            return
        device = self._context.fleet.devices.get(target.device_id)
        running = target.state is JobState.RUNNING
        progress = r.JobProgress(step=target.step, steps=target.steps, eta_ms=target.eta_ms)
        reply = self._result(
            job,
            target.state,
            f"{target.action.name} is {target.state.value}",
            position=device.queue.position(target) if device is not None else None,
            device_id=target.device_id or None,
            progress=progress if running else None,
        )
        self._answers.reply(job, reply)

    def _result(self, job: Job, state: JobState, message: str, **fields: object) -> r.GetResultReply:
        command = job.command
        assert isinstance(command, c.GetResult)
        return r.GetResultReply(
            request_id=job.request_id,
            action=job.action.name,
            message=message,
            target_request_id=command.target_request_id,
            job_state=state,
            **fields,  # type: ignore[arg-type]
        )

    def _cancel(self, job: Job, command: c.Cancel) -> None:
        target_id = job.scope + command.target_request_id
        target = self._context.jobs.live(target_id)
        if target is None or target is job:
            known = self._context.store.find(target_id) is not None
            outcome = CancelOutcome.ALREADY_FINISHED if known else CancelOutcome.UNKNOWN
        elif target.cancelling:
            outcome = CancelOutcome.CANCELLING
        else:
            text = f"cancelled by request {job.wire_id}"
            outcome = self._dispatch.end_early(target, Fault(ErrorCode.CANCELLED, text).info)
        reply = r.CancelReply(
            request_id=job.request_id,
            action=job.action.name,
            message=outcome.value,
            target_request_id=command.target_request_id,
            outcome=outcome,
        )
        self._answers.reply(job, reply)


def _waiting(job: Job, device: Device) -> r.WaitingCommand:
    return r.WaitingCommand(
        device_id=device.device_id,
        request_id=job.wire_id,
        action=job.action.name,
        model_id=job.model_id,
        priority=job.command.priority,
    )
