"""The client for asyncio: one zmq.asyncio socket, read by a task of the running loop.

Used from one loop. The socket is made when the first command is sent, so that a client may be built anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from typing import Any

import zmq
import zmq.asyncio

from client.aio_calls import AsyncCalls
from client.answers import Answer, ClientClosed, CommandFailed
from client.curve import CurveKeys
from client.events import AsyncEventStream, events_address
from client.ledger import RESEND_SECONDS, Flight, Ledger, Outcome
from client.wire import WATCHED, event_of, is_large, prepare
from protocol.commands import Command
from protocol.enums import Encoding
from protocol.replies import ProgressReply, Reply
from settings.endpoints import find

TICK_SECONDS = 0.1


class AsyncClient(AsyncCalls):
    """A connection to a broker; `await close()` it, or use it in an `async with`. As `Client` in all else."""

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        encoding: Encoding = Encoding.JSON,
        curve: CurveKeys | None = None,
        resend_seconds: float = RESEND_SECONDS,
    ) -> None:
        self.endpoint = endpoint or find().commands
        self._curve = curve or CurveKeys.find()
        self._ledger = Ledger(self.endpoint, encoding, resend_seconds, has_key=self._curve is not None)
        self._context: zmq.asyncio.Context | None = None
        self._socket: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def connected(self) -> bool:
        """Whether a connection to the broker stands."""
        return self._ledger.connected

    async def close(self) -> None:
        """End the connection; what is in flight is raised as ClientClosed where it is waited for."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()
        self._ledger.fail_all(ClientClosed("the client was closed"))
        if self._context is not None:
            self._socket.disable_monitor()
            self._socket.close(0)
            self._context.destroy(0)
            self._context = None

    async def events(self, topics: Iterable[str] = ()) -> AsyncEventStream:
        """A subscription at the address that this broker tells, with this client's key. Raises what `send` raises."""
        address = events_address((await self.hello()).events, self.endpoint)
        return AsyncEventStream(topics, address, encoding=self._ledger.encoding, curve=self._curve)

    async def answers(
        self, command: Command, attachments: Sequence[bytes] = (), *, timeout: float | None = None
    ) -> AsyncIterator[Answer[Reply]]:
        """Every progress answer, then the final one. Raises what `send` raises."""
        self._open()
        outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        flight = self._ledger.flight(command, attachments, outcomes.put_nowait, time.monotonic(), timeout)
        self._ledger.open(flight)
        await self._transmit([flight])
        while True:
            outcome = await outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
            if not outcome.reply.success:
                raise CommandFailed(outcome)
            yield outcome
            if not isinstance(outcome.reply, ProgressReply):
                return

    async def stream(
        self, command: Command, attachments: Sequence[bytes] = (), *, timeout: float | None = None
    ) -> AsyncIterator[Reply]:
        """Every progress reply of a command with `stream_progress`, then the final reply. Raises what `send` raises."""
        async for answer in self.answers(command, attachments, timeout=timeout):
            yield answer.reply

    async def call(
        self,
        command: Command,
        attachments: Sequence[bytes] = (),
        *,
        timeout: float | None = None,
        on_progress: Callable[[ProgressReply], None] | None = None,
    ) -> Answer[Reply]:
        """Send a command and wait for its final answer, attachments included. Raises what `send` raises."""
        async for answer in self.answers(command, attachments, timeout=timeout):
            if not isinstance(answer.reply, ProgressReply):
                return answer
            if on_progress is not None:
                on_progress(answer.reply)
        raise ClientClosed("the client was closed")

    async def send(self, command: Command, attachments: Sequence[bytes] = (), *, timeout: float | None = None) -> Reply:
        """Send a command and wait for its final reply.

        Raises CommandFailed (a Fault) when the reply says so, NoAnswer after `timeout` seconds, ClientClosed,
        ValueError.
        """
        return (await self.call(command, attachments, timeout=timeout)).reply

    def _open(self) -> None:
        if self._closed:
            raise ClientClosed("the client is closed")
        if self._context is not None:
            return
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        prepare(self._socket, self._curve)
        monitor = self._socket.get_monitor_socket(WATCHED)
        self._socket.connect(self.endpoint)
        for loop in (self._receive(), self._watch(monitor), self._tick()):
            self._tasks.append(asyncio.create_task(self._guard(loop)))

    async def _guard(self, loop: Coroutine[Any, Any, None]) -> None:
        """A loop that breaks ends every command in flight instead of leaving it waiting."""
        try:
            await loop
        except Exception as error:
            self._ledger.fail_all(error)

    async def _transmit(self, flights: Sequence[Flight]) -> None:
        """Send what has a way to go; after a refused handshake there is none, and silence is the answer."""
        for flight in flights:
            with contextlib.suppress(zmq.Again):
                await self._socket.send_multipart(flight.frames, zmq.DONTWAIT, copy=not is_large(flight.frames))

    async def _receive(self) -> None:
        while True:
            self._ledger.receive(await self._socket.recv_multipart(), time.monotonic())

    async def _watch(self, monitor: Any) -> None:
        with contextlib.closing(monitor):
            while True:
                event = event_of(await monitor.recv_multipart())
                if event == zmq.Event.HANDSHAKE_SUCCEEDED:
                    await self._transmit(self._ledger.reconnected())
                else:
                    self._ledger.parted(event)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            self._ledger.expire(now)
            if self._ledger.connected:
                await self._transmit(self._ledger.silent(now))
