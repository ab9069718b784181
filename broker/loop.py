"""The broker's one thread: a poll loop that turns frames into events for the core and its effects into frames.

Nothing is decided here.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import msgspec
import zmq

from broker import envelope
from broker.core.core import Core
from broker.core.events import (
    ClientMessage,
    CoreEvent,
    Effect,
    Exit,
    Log,
    Publish,
    Remember,
    SendClient,
    SendWorker,
    TellSupervisor,
    Tick,
    WorkerMessage,
    WorkerUnreachable,
)
from broker.descriptors import Descriptors
from broker.frames import receive
from broker.journal import Journal
from broker.notebook import Notebook
from broker.outbox import Bounds, Outbox
from broker.sockets import Sockets
from protocol import link, supervision
from protocol.supervision import Door
from settings.logs import Logger

MESSAGES_PER_TURN = 16
"""Messages taken from one socket before what follows from them is sent, and the others get their turn.

Sends in a row cost less than sends each on its own: libzmq wakes its I/O thread once for all of them.
"""

AWAKE_SECONDS = 0.0004
"""How long the loop looks again and again for what follows a command or its reply, before it sleeps.

To be woken costs more than all that a command does here; work that trickles in costs at most this much of a core.
"""

MAX_TURN_SECONDS = 0.5
WORKER_BOUNDS = Bounds(peer_bytes=512 << 20, total_bytes=4 << 30)
"""What may wait for workers: their lanes are bounded, so that more is a worker that does not read."""

_log = Logger()


class Loop:
    """Runs a core over its sockets, a line channel from the supervisor and one back to it."""

    def __init__(
        self,
        core: Core,
        sockets: Sockets,
        journal: Journal | None,
        notebook: Notebook,
        *,
        lines_in: int,
        lines_out: int,
    ) -> None:
        self._core = core
        self._sockets = sockets
        self._journal = journal
        self._notebook = notebook
        self._lines_in = lines_in
        self._lines_out = lines_out
        self._partial = b""
        self._doors = sockets.doors_of(Door.COMMANDS)
        self._link_doors = sockets.doors_of(Door.WORKERS)
        self._outbox = Outbox(sockets.commands, self._doors, gone=_nobody, full=_unread)
        self._to_workers = Outbox(
            sockets.link, gone=self._lost, full=lambda worker, _: self._lost(worker), bounds=WORKER_BOUNDS
        )
        self._unsaid = b""
        self._descriptors = Descriptors(sockets)
        self._effects: list[Effect] = []
        self._busy = False
        self._awake_until = 0.0
        self._running = True

    def run(self) -> None:
        """Serve until the core says Exit or the supervisor is gone."""
        poller = zmq.Poller()
        commands, worker_link, events = self._sockets.commands, self._sockets.link, self._sockets.publisher.socket
        for source in (commands, worker_link, events, self._lines_in):
            poller.register(source, zmq.POLLIN)
        doors = self._sockets.doors
        for source in doors.sockets if doors is not None else ():
            poller.register(source, zmq.POLLIN)
        while self._running:
            ready = dict(poller.poll(self._patience_ms()))
            if doors is not None:
                doors.attend()
            if worker_link in ready:
                self._drain(self._read_worker)
            if commands in ready:
                self._drain(self._read_client)
            if events in ready:
                self._guarded(self._read_subscriptions)
            if self._lines_in in ready:
                self._read_lines()
            self._guarded(self._look_around)
            due = self._core.next_at()
            if due is not None and due <= time.monotonic():
                self._handle(Tick())
            self._apply()

    def _patience_ms(self) -> int:
        if time.monotonic() < self._awake_until:
            return 0
        due = self._core.next_at()
        waits = [box.retry_seconds or MAX_TURN_SECONDS for box in (self._outbox, self._to_workers)]
        waits.append(MAX_TURN_SECONDS)
        waits.append(self._descriptors.patience_seconds)
        if due is not None:
            waits.append(due - time.monotonic())
        return max(0, int(min(waits) * 1000) + 1) if min(waits) > 0 else 0

    def _drain(self, read: Callable[[], None]) -> None:
        """Take what a socket has, within a turn's bound, then do what follows from it.

        Where little is going on, what the first message asks for does not wait until there is no second one.
        """
        taken = 0
        try:
            while taken < MESSAGES_PER_TURN:
                self._guarded(read)
                taken += 1
                if taken == 1 and not self._busy:
                    self._apply()
        except zmq.Again:
            pass
        self._busy = taken > 1
        self._apply()

    def _read_client(self) -> None:
        sender = None
        if self._doors is None:
            client, *frames = receive(self._sockets.commands)
        else:
            client, frames, sender = self._doors.receive(self._sockets.commands, Door.COMMANDS)
        parts, payload, attachments = envelope.split(frames)
        self._awake_until = time.monotonic() + AWAKE_SECONDS
        self._handle(ClientMessage(client, parts, payload, attachments, sender))

    def _read_worker(self) -> None:
        if self._link_doors is None:
            worker, *frames = receive(self._sockets.link)
        else:
            worker, frames, sender = self._link_doors.receive(self._sockets.link, Door.WORKERS)
            if not sender.admitted:
                _log.warning("a worker whose key is admitted no more is cut off", worker=worker.hex())
                self._lost(worker)
                return
        try:
            header = link.decode_from_worker(frames[0])
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            _log.warning("unreadable message from a worker", worker=worker.hex(), error=str(error))
            return
        if isinstance(header, link.JobUpdate):
            self._awake_until = time.monotonic() + AWAKE_SECONDS
        self._handle(WorkerMessage(worker, header, tuple(frames[1:])))

    def _read_lines(self) -> None:
        data = os.read(self._lines_in, 1 << 16)
        if not data:
            self._running = False
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for text in lines:
            self._guarded(lambda text=text: self._follow(supervision.to_broker(text)))  # type: ignore[misc]

    def _follow(self, line: supervision.ToBroker) -> None:
        if isinstance(line, supervision.BindLink):
            self._sockets.bind_link_again()
        else:
            self._handle(line)

    def _read_subscriptions(self) -> None:
        for change in self._sockets.publisher.read_subscriptions():
            self._handle(change)

    def _handle(self, event: CoreEvent) -> None:
        self._effects.extend(self._core.handle(event, time.monotonic()))

    def _guarded(self, call: Callable[[], None]) -> None:
        """Whatever one message or effect does, the loop goes on to the next; the end of a socket's queue passes."""
        try:
            call()
        except zmq.Again:
            raise
        except Exception:
            _log.exception("incident in the loop")

    def _apply(self) -> None:
        """Do what the core asked for, once it is on disk; a send that finds nobody asks the core again."""
        if self._journal is not None:
            self._journal.flush()
        while self._effects:
            effects, self._effects = self._effects, []
            for effect in effects:
                try:
                    self._do(effect)
                except Exception:
                    _log.exception("incident in the loop", effect=type(effect).__name__)

    def _do(self, effect: Effect) -> None:
        match effect:
            case SendClient():
                self._outbox.send(effect.client, effect.frames)
            case SendWorker():
                self._to_workers.send(effect.worker, (link.encode(effect.header), *effect.body))
            case Publish():
                self._sockets.publisher.publish(effect)
            case TellSupervisor():
                self._say(supervision.line(effect.line))
            case Log():
                _log.log(effect.level, effect.event, **effect.fields)
            case Remember():
                self._notebook.keep(effect.data)
            case Exit():
                self._running = False

    def _look_around(self) -> None:
        """What is due in every turn: messages that wait, lines that were not taken, open files."""
        self._outbox.retry()
        self._to_workers.retry()
        self._say(b"")
        self._descriptors.look(time.monotonic())

    def _lost(self, worker: bytes) -> None:
        """A message to a worker found no way to it, or more waits for it than a living one leaves unread."""
        self._handle(WorkerUnreachable(worker))

    def _say(self, line: bytes) -> None:
        """A line to the supervisor; one that is stopped itself reads it later."""
        self._unsaid += line
        if self._unsaid:
            with contextlib.suppress(BlockingIOError):
                self._unsaid = self._unsaid[os.write(self._lines_out, self._unsaid) :]


def _nobody(client: bytes) -> None:
    _log.info("a reply has nobody to go to", client=client.hex())


def _unread(client: bytes, size: int) -> None:
    """Stored replies can still be fetched by request id."""
    _log.warning("a client does not read: a reply is dropped", client=client.hex(), bytes=size)
