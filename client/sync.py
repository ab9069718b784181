"""The client for threads: any number of threads, one socket, one thread of its own that owns the socket.

Callers hand commands to the I/O thread and wait on a queue; the socket never leaves its thread.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import zmq

from client.answers import Answer, ClientClosed, CommandFailed
from client.calls import Calls
from client.curve import CurveKeys
from client.events import EventStream, events_address
from client.ledger import RESEND_SECONDS, Flight, Ledger, Outcome
from client.wire import WATCHED, event_of, is_large, prepare, readable
from protocol.commands import Command
from protocol.enums import Encoding
from protocol.replies import ProgressReply, Reply
from settings.endpoints import find

TICK_MS = 100
DRAIN_MESSAGES = 256


LOOK_SECONDS = 0.5
"""A signal that comes right before a thread goes to sleep does not wake it: who waits looks up now and then."""


class Pending:
    """A command that was sent. Its answers are read once: by `result`, or by iterating."""

    def __init__(self) -> None:
        self.request_id = ""
        self._outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def deliver(self, outcome: Outcome) -> None:
        """Called by the I/O thread."""
        self._outcomes.put(outcome)

    def __iter__(self) -> Iterator[Answer[Reply]]:
        """Every progress reply, then the final one. Raises what `Client.send` raises."""
        while True:
            try:
                outcome = self._outcomes.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            if isinstance(outcome, Exception):
                raise outcome
            if not outcome.reply.success:
                raise CommandFailed(outcome)
            yield outcome
            if not isinstance(outcome.reply, ProgressReply):
                return

    def result(self, on_progress: Callable[[ProgressReply], None] | None = None) -> Answer[Reply]:
        """The final answer. Raises what `Client.send` raises."""
        for answer in self:
            if not isinstance(answer.reply, ProgressReply):
                return answer
            if on_progress is not None:
                on_progress(answer.reply)
        raise ClientClosed("this command's answers were read already")


class Client(Calls):
    """A connection to a broker; close it, or use it in a `with`.

    `endpoint` is a ZeroMQ address, by default that of the broker found on this machine; `curve` are the keys, by
    default those that `VRAMBROKER_KEY` names. Raises ConfigError for keys that cannot be read. A command is sent again
    with its id after a reconnect and after `resend_seconds` of silence, doubled each time; it never runs twice.
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        encoding: Encoding = Encoding.JSON,
        curve: CurveKeys | None = None,
        resend_seconds: float = RESEND_SECONDS,
    ) -> None:
        self.endpoint = endpoint or find().commands
        self._curve = keys = curve or CurveKeys.find()
        self._ledger = Ledger(self.endpoint, encoding, resend_seconds, has_key=keys is not None)
        self._outbox: deque[Flight] = deque()
        self._closing = False
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        prepare(self._socket, keys)
        self._monitor = self._socket.get_monitor_socket(WATCHED)
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._socket.connect(self.endpoint)
        self._thread = threading.Thread(target=self._run, name="vrambroker-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; what is in flight is raised as ClientClosed where it is waited for."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        self._wake.send(b"x")
        self._thread.join()
        self._wake.close()
        self._woken.close()

    @property
    def connected(self) -> bool:
        """Whether a connection to the broker stands."""
        return self._ledger.connected

    def events(self, topics: Iterable[str] = ()) -> EventStream:
        """A subscription at the address that this broker tells, with this client's key. Raises what `send` raises."""
        address = events_address(self.hello().events, self.endpoint)
        return EventStream(topics, address, encoding=self._ledger.encoding, curve=self._curve)

    def submit(self, command: Command, attachments: Sequence[bytes] = (), *, timeout: float | None = None) -> Pending:
        """Send a command and do not wait.

        `timeout` in seconds is how long this client waits for the final reply, by default the command's deadline and a
        grace. Raises ValueError for attachments that do not fit the command, ClientClosed.
        """
        pending = Pending()
        flight = self._ledger.flight(command, attachments, pending.deliver, time.monotonic(), timeout)
        pending.request_id = flight.request_id
        with self._lock:
            if self._closing:
                raise ClientClosed("the client is closed")
            self._outbox.append(flight)
            self._wake.send(b"x")
        return pending

    def call(
        self,
        command: Command,
        attachments: Sequence[bytes] = (),
        *,
        timeout: float | None = None,
        on_progress: Callable[[ProgressReply], None] | None = None,
    ) -> Answer[Reply]:
        """Send a command and wait for its final answer, attachments included. Raises what `send` raises."""
        return self.submit(command, attachments, timeout=timeout).result(on_progress)

    def send(self, command: Command, attachments: Sequence[bytes] = (), *, timeout: float | None = None) -> Reply:
        """Send a command and wait for its final reply.

        Raises CommandFailed (a Fault) when the reply says so, NoAnswer after `timeout` seconds, ClientClosed,
        ValueError.
        """
        return self.call(command, attachments, timeout=timeout).reply

    def stream(
        self, command: Command, attachments: Sequence[bytes] = (), *, timeout: float | None = None
    ) -> Iterator[Reply]:
        """Every progress reply of a command with `stream_progress`, then the final reply. Raises what `send` raises."""
        for answer in self.submit(command, attachments, timeout=timeout):
            yield answer.reply

    # The I/O thread.

    def _run(self) -> None:
        poller = zmq.Poller()
        for source in (self._socket, self._monitor, self._woken):
            poller.register(source, zmq.POLLIN)
        next_tick = time.monotonic()
        try:
            while not self._closing:
                ready = dict(poller.poll(TICK_MS))
                self._take_submissions(self._woken.fileno() in ready)
                if self._monitor in ready:
                    self._watch()
                if self._socket in ready:
                    self._receive()
                if time.monotonic() >= next_tick:
                    next_tick = time.monotonic() + TICK_MS / 1000
                    self._tick()
        finally:
            self._shut()

    def _take_submissions(self, woken: bool) -> None:
        if woken:
            with contextlib.suppress(BlockingIOError):
                self._woken.recv(4096)
        while self._outbox:
            flight = self._outbox.popleft()
            try:
                self._ledger.open(flight)
            except ValueError as error:
                flight.deliver(error)
            else:
                self._transmit([flight])

    def _transmit(self, flights: Sequence[Flight]) -> None:
        """Send what has a way to go; after a refused handshake there is none, and silence is the answer."""
        for flight in flights:
            with contextlib.suppress(zmq.Again):
                self._socket.send_multipart(flight.frames, zmq.DONTWAIT, copy=not is_large(flight.frames))

    def _watch(self) -> None:
        while readable(self._monitor):
            event = event_of(self._monitor.recv_multipart())
            if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                self._transmit(self._ledger.reconnected())
            else:
                self._ledger.parted(event)

    def _receive(self) -> None:
        for _ in range(DRAIN_MESSAGES):
            if not readable(self._socket):
                return
            frames: Any = self._socket.recv_multipart()
            self._ledger.receive(frames, time.monotonic())

    def _tick(self) -> None:
        now = time.monotonic()
        self._ledger.expire(now)
        if self._ledger.connected:
            self._transmit(self._ledger.silent(now))

    def _shut(self) -> None:
        with self._lock:
            self._closing = True
        closed = ClientClosed("the client was closed")
        while self._outbox:
            self._outbox.popleft().deliver(closed)
        self._ledger.fail_all(closed)
        self._socket.disable_monitor()
        self._socket.close(0)
        self._context.destroy(0)
