"""The core: `handle(event)` takes what happened and returns what is to be done.

It matches on the event's type and hands it to one room: `intake` for clients, `workforce` for workers and the
supervisor, the timers for time.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from broker.core.answers import Answers
from broker.core.bulletin import queue_figures
from broker.core.context import Context
from broker.core.desk import Desk
from broker.core.dispatch import Dispatch
from broker.core.estimates import Estimates
from broker.core.events import (
    ClientMessage,
    CoreEvent,
    Effect,
    Exit,
    Remember,
    SendWorker,
    Subscribed,
    TellSupervisor,
    Tick,
    WorkerMessage,
    WorkerUnreachable,
)
from broker.core.finals import Store
from broker.core.incidents import Incidents
from broker.core.intake import Intake
from broker.core.preloads import Preloads
from broker.core.workforce import Workforce
from protocol.enums import JobState
from protocol.errors import ErrorCode, Fault
from protocol.link import Stop
from protocol.supervision import Alive, BrokerSpec, ChildExited, ChildStarted, Drain, RecycleChild

WATCH_SECONDS = 1.0
QUEUE_EVENT_SECONDS = 0.25
FIRST_SIGN_SECONDS = 0.1
"""When the supervisor is told for the first time that the loop turns."""

REMEMBER_SECONDS = 5.0


class Core:
    """All decisions of the broker."""

    def __init__(
        self,
        spec: BrokerSpec,
        epoch: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], datetime],
        new_id: Callable[[], str],
        store: Store,
        remembered: bytes = b"",
    ) -> None:
        self.context = context = Context(spec, epoch, clock=clock, wall=wall, new_id=new_id, store=store)
        self._answers = Answers(context)
        self._dispatch = Dispatch(context, self._answers)
        desk = Desk(context, self._answers, self._dispatch)
        self._intake = Intake(context, self._answers, self._dispatch, desk)
        self._workforce = Workforce(context, self._answers, self._dispatch, self._intake)
        self._preloads = Preloads(context, self._dispatch, self._intake.replace)
        self._incidents = Incidents(context, self._answers, self._dispatch)
        self.forgot = False
        """What was remembered could not be read."""
        self._remember_at = 0.0
        self._recall(remembered)
        now = clock()
        context.timers.at(now + WATCH_SECONDS, self._watch)
        context.timers.at(now + FIRST_SIGN_SECONDS, self._show_life)
        context.timers.at(now, self._publish_queue)
        if context.survivors:
            context.timers.at(now + spec.silence_ms / 1000.0, self._workforce.end_absent)
        self._workforce.recall(store.unfinished())

    def handle(self, event: CoreEvent, now: float) -> list[Effect]:
        """Everything that follows from one event, in order. `now` is when it arrived, in seconds of the clock."""
        try:
            self._take(event, now)
            self._place_leaderless()
        except Exception as error:
            self._incidents.note(type(event).__name__, error, event)
        context = self.context
        effects, context.effects = context.effects, []
        return effects

    def _take(self, event: CoreEvent, now: float) -> None:
        match event:
            case ClientMessage():
                self._intake.receive(event, now)
            case WorkerMessage():
                self._workforce.receive(event)
            case WorkerUnreachable():
                self._workforce.unreachable(event.worker)
            case ChildStarted():
                self._workforce.started(event)
            case ChildExited():
                self._workforce.exited(event)
            case RecycleChild():
                self._workforce.recycle(event)
            case Drain():
                self._drain(event, now)
            case Subscribed():
                self.context.bulletin.listen(event)
            case Tick():
                for call in self.context.timers.due(now):
                    self._call(call, now)

    def _call(self, call: Callable[[float], object], now: float) -> None:
        """A timer; one that fails harms no other."""
        try:
            call(now)
        except Exception as error:
            self._incidents.note("a timer", error)

    def _place_leaderless(self) -> None:
        context = self.context
        while context.leaderless:
            self._intake.replace(context.leaderless.pop(0))

    def next_at(self) -> float | None:
        """When the core wants its next `Tick`."""
        return self.context.timers.next_at()

    def _watch(self, now: float) -> None:
        self.context.timers.at(now + WATCH_SECONDS, self._watch)
        self._workforce.watch(now)
        self._preloads.look(now)
        self.context.store.expire(now)
        if now >= self._remember_at:
            self._remember_at = now + REMEMBER_SECONDS
            self._remember()

    def _show_life(self, now: float) -> None:
        self.context.emit(TellSupervisor(Alive()))
        self.context.timers.at(now + WATCH_SECONDS, self._show_life)

    def _publish_queue(self, now: float) -> None:
        context = self.context
        context.timers.at(now + QUEUE_EVENT_SECONDS, self._publish_queue)
        if context.queue_changed:
            context.queue_changed = False
            context.bulletin.queue(queue_figures(context.fleet.devices.values(), now))

    # what was learned

    def _recall(self, remembered: bytes) -> None:
        context = self.context
        try:
            context.estimates = Estimates(remembered)
        except Exception as error:
            self.forgot = True
            text = "what was learned before cannot be read: it is set aside, and learned anew"
            context.log("warning", text, error=str(error)[:200])

    def _remember(self) -> None:
        estimates = self.context.estimates
        if estimates.changed:
            self.context.emit(Remember(estimates.encode()))

    # stopping

    def _drain(self, event: Drain, now: float) -> None:
        """Answer what waits, let what runs end within its time, then stop the workers."""
        context = self.context
        if context.draining:
            return
        context.draining = True
        error = Fault(ErrorCode.DRAINING, "the broker is stopping: the command was not started").info
        for job in context.jobs:
            if job.state is JobState.QUEUED:
                self._dispatch.end_early(job, error)
        context.timers.at(now + event.seconds, self._stop_running)
        context.timers.at(now + event.seconds + 1.0, lambda _: self._stop_workers())
        self._exit_when_idle(now)

    def _stop_running(self, _: float) -> None:
        for device in self.context.fleet.devices.values():
            if device.running is not None:
                text = "the broker is stopping: the drain time is over"
                self._dispatch.stop_running(device.running, device, ErrorCode.DRAINING, text)

    def _exit_when_idle(self, now: float) -> None:
        if not len(self.context.jobs):
            self._stop_workers()
        else:
            self.context.timers.at(now + 0.02, self._exit_when_idle)

    def _stop_workers(self) -> None:
        context = self.context
        error = Fault(ErrorCode.DRAINING, "the broker stopped before the command ended").info
        for job in context.jobs:
            self._answers.fail(job, error)
        workers = [device.worker for device in context.fleet.devices.values()] + [context.catalogue.worker]
        for worker in workers:
            if worker is not None:
                context.emit(SendWorker(worker, Stop(drain_seconds=0.0)))
        self._remember()
        context.emit(Exit())
