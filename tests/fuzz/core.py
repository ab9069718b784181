"""Messages against the core without I/O: it never raises, answers each command once, and keeps nothing.

`fuzz` is clients of all kinds before workers that answer late, wrongly or never; `fuzz_link` is workers that say
anything at all, beside clients of which each still gets its one final reply.
"""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from broker import envelope
from broker.core.core import Core
from broker.core.events import (
    ClientMessage,
    CoreEvent,
    Effect,
    Log,
    SendClient,
    SendWorker,
    TellSupervisor,
    Tick,
    WorkerMessage,
)
from broker.core.finals import MemoryStore
from protocol import link
from protocol.codec import decode_reply, encode_reply
from protocol.enums import DeviceKind, ModelStatus, ModelType, ReplyState
from protocol.errors import ErrorCode, Fault
from protocol.replies import FailedReply, Limits, ProgressReply, Reply
from protocol.supervision import BrokerSpec, ChildExited, DeviceSlot, Drain, KillChild
from protocol.telemetry import DeviceIdentity
from tests.fuzz.headers import Headers
from tests.fuzz.inputs import Inputs, Message

START = datetime(2026, 1, 1, tzinfo=UTC)
BATCH = 5000
WORKERS = (b"cpu:0", b"cpu:1", b"cat", b"stranger")
_OLD = 660.0
"""Seconds after which finals are forgotten, what was cancelled has ended, and stuck workers were replaced."""

_MOST_TIMERS = 50
_JANITOR = b"janitor"
_GARBAGE = b"~garbage~"
"""What a worker sends in place of a reply; it goes to the client as it is."""


class Target:
    """A core with two devices, a catalogue, and everybody's replies by client."""

    def __init__(self, seed: int, *, is_garbled: bool = False) -> None:
        self.now = 1000.0
        self.inputs = Inputs(seed)
        self.chance = self.inputs.random
        self.codes: Counter[str] = Counter()
        self.finals: Counter[bytes] = Counter()
        self._sent: dict[bytes, Message] = {}
        self._is_garbled = is_garbled
        self._doomed: list[KillChild] = []
        self.ids: list[str] = []
        numbers = itertools.count()
        slots = [DeviceSlot(device_id=f"cpu:{index}", kind=DeviceKind.CPU) for index in range(2)]
        spec = BrokerSpec(
            commands="", events="", link="", devices=slots, limits=Limits(), silence_ms=10**12, version="0"
        )
        self.core = Core(
            spec,
            "epoch",
            clock=lambda: self.now,
            wall=lambda: START + timedelta(seconds=min(self.now, 1e9)),
            new_id=lambda: f"id-{next(numbers)}",
            store=MemoryStore(),
        )
        self._open(slots)

    def _open(self, slots: list[DeviceSlot]) -> None:
        for slot in slots:
            self._start_worker(slot.device_id, 1)
        self.handle(WorkerMessage(b"cat", link.Register(worker_id="catalog", generation=1, pid=1)))
        model = link.ModelRef(model_id="m", path="/m", type=ModelType.SDXL, size_bytes=1, status=ModelStatus.Available)
        self.handle(WorkerMessage(b"cat", link.CatalogEntries(entries=[model], complete=True)))

    def _start_worker(self, name: str, generation: int) -> None:
        identity = DeviceIdentity(device_id=name, uuid=name, name="", kind=DeviceKind.CPU, total_vram=1 << 30)
        here = link.Register(worker_id="w", generation=generation, pid=1, device=identity, ready=True)
        self.handle(WorkerMessage(name.encode(), here))
        self.handle(WorkerMessage(name.encode(), link.Report(ready=True, models=[])))

    def send(self, client: bytes) -> None:
        """The next message, from a client. Raises AssertionError with the input for whatever is wrong about it."""
        message = self.inputs.message()
        self._sent[client] = message
        parts, payload, attachments = envelope.split(message.frames)
        try:
            self.handle(ClientMessage(client, parts, payload, attachments))
        except Exception as error:
            raise AssertionError(f"client {client!r} sent {message!r}") from error

    def handle(self, event: CoreEvent) -> None:
        """One event and what follows from it."""
        pending = self.core.handle(event, self.now)
        while pending:
            effects, pending = pending, []
            for effect in effects:
                pending += self._see(effect)

    def _see(self, effect: Effect) -> list[Effect]:
        assert not (isinstance(effect, Log) and effect.event == "incident"), effect.fields["trace"]
        if isinstance(effect, SendClient):
            if effect.client != _JANITOR:
                self._check(effect)
        elif isinstance(effect, SendWorker) and isinstance(effect.header, link.Assign):
            self.ids = [*self.ids[-20:], effect.header.request_id]
            if self.chance.random() < 0.5:
                return self.core.handle(self._answer(effect.worker, effect.header), self.now)
        elif isinstance(effect, TellSupervisor) and isinstance(effect.line, KillChild):
            self._doomed.append(effect.line)
        return []

    def _replace_doomed(self) -> None:
        """Do as the supervisor does: end who is to be ended, and start another."""
        doomed, self._doomed = self._doomed, []
        for kill in doomed:
            self.handle(ChildExited(child=kill.child, generation=kill.generation, reason="killed"))
            if kill.child != link.CATALOG_ID:
                self._start_worker(kill.child, kill.generation + 1)

    def _check(self, effect: SendClient) -> None:
        message = self._sent[effect.client]
        parts, payload, _ = envelope.split(effect.frames)
        assert parts == envelope.split(message.frames)[0]
        if self._is_garbled:
            self.finals[effect.client] += payload == _GARBAGE or not _is_progress(payload)
            return
        reply = decode_reply(payload)
        if reply.state is ReplyState.PROGRESS:
            return
        self.finals[effect.client] += 1
        self.codes[reply.error.code.value if reply.error is not None else ""] += 1
        if message.is_plain:
            _check_reply(reply, message)

    def _answer(self, worker: bytes, assign: link.Assign) -> WorkerMessage:
        """A worker's update, right or not."""
        chance = self.chance
        request_id = assign.request_id if chance.random() < 0.8 else chance.choice(("nobody", *self.ids))
        refusal = failed(assign.action, link.wire_id(request_id))
        state = chance.choice(list(ReplyState))
        success = chance.random() < 0.5
        update = link.JobUpdate(
            request_id=request_id,
            attempt=assign.attempt + chance.choice((0, 0, 0, 1, -1)),
            state=state,
            success=success,
            error_code=None if success or chance.random() < 0.5 else ErrorCode.INFERENCE_FAILED,
        )
        body = () if chance.random() < 0.2 else (encode_reply(refusal, assign.spelling),)
        if state is ReplyState.PROGRESS:
            body = body and (encode_reply(_progress(refusal), assign.spelling),)
        elif self._is_garbled and chance.random() < 0.2:
            body = (_GARBAGE,)
        sender = worker if chance.random() < 0.9 else chance.choice(WORKERS)
        return WorkerMessage(sender, update, body)

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come."""
        end = self.now + seconds
        while (due := self.core.next_at()) is not None and due <= end:
            self.now = max(self.now, due)
            self.handle(Tick())
            self._replace_doomed()
        self.now = end

    def settle(self) -> None:
        """Cancel what is left and let the finals grow old: everybody was answered once, and nothing is kept."""
        for job in self.core.context.jobs:
            if job.on_final is None:
                cancel = {"action": "cancel", "target_request_id": job.request_id}
                self.handle(ClientMessage(_JANITOR, (), msgspec.json.encode(cancel)))
        self.pass_time(_OLD)
        self._check_empty()
        self._sent.clear()
        self.finals.clear()

    def stop(self) -> None:
        """Stop the broker: whoever waits is answered, nothing is left."""
        self.handle(Drain(seconds=0.0))
        self.pass_time(10.0)
        self._check_empty()

    def _check_empty(self) -> None:
        context = self.core.context
        wrong = [(client, self.finals[client], self._sent[client]) for client in self._sent if self.finals[client] != 1]
        assert not wrong, f"{len(wrong)} got no final reply, or several, first of all {wrong[:3]}"
        assert not len(context.jobs), list(context.jobs)[:3]
        assert context.jobs.queued_total == 0
        assert not context.effects and not context.leaderless
        for device in context.fleet.devices.values():
            assert not len(device.queue), device.device_id
        assert len(context.timers._calls) < _MOST_TIMERS, "timers of commands that ended"


def _check_reply(reply: Reply, message: Message) -> None:
    case, code = message.case, reply.error and reply.error.code
    assert reply.success is (reply.error is None), reply
    assert reply.error is None or reply.message == reply.error.message != ""
    if code is ErrorCode.MALFORMED_MESSAGE:
        assert not case.readable, f"readable, but: {reply.message}"
        assert reply.request_id is None
    elif case.request_id is not None:
        assert reply.request_id == case.request_id, f"{reply.request_id} is echoed"
    if case.readable and code is not None and code is not ErrorCode.INTERNAL_ERROR:
        assert len(reply.message) < 2000


def _is_progress(payload: bytes) -> bool:
    """Of a reply that holds numbers as a worker gave them, which need not be finite."""
    decode = msgspec.json.decode if payload[:1] == b"{" else msgspec.msgpack.decode
    reply: dict[str, Any] = decode(payload)
    return "progress" in (reply.get("state"), reply.get("State"))


def failed(action: str, request_id: str) -> FailedReply:
    """What a worker answers that cannot do it."""
    error = Fault(ErrorCode.INFERENCE_FAILED, "it could not be done").info
    return FailedReply(
        request_id=request_id,
        action=action,
        success=False,
        state=ReplyState.FAILED,
        message=error.message,
        error=error,
    )


def _progress(failed: FailedReply) -> ProgressReply:
    return ProgressReply(request_id=failed.request_id, action=failed.action, state=ReplyState.PROGRESS, step=1, steps=2)


def fuzz(seed: int, count: int) -> Counter[str]:
    """So many messages, each of a client of its own: the replies' codes. Raises AssertionError that names the seed."""
    target = Target(seed)
    try:
        for number in range(count):
            target.send(b"%d" % number)
            target.now += 0.001
            if number % BATCH == BATCH - 1:
                target.settle()
        target.settle()
        target.stop()
    except AssertionError as error:
        raise AssertionError(f"fuzz({seed}, {count}): {error}") from error
    return target.codes


def fuzz_link(seed: int, count: int) -> int:
    """So many messages of workers, some of them strangers; how many were understood. Raises as `fuzz` does."""
    understood = 0
    for batch in range(0, count, BATCH):
        size = min(BATCH, count - batch)
        try:
            understood += _talk(Target(seed + batch, is_garbled=True), size)
        except AssertionError as error:
            raise AssertionError(f"fuzz_link({seed + batch}, {size}): {error}") from error
    return understood


def _talk(target: Target, count: int) -> int:
    headers, understood = Headers(target.chance), 0
    for number in range(count):
        if number % 4 == 0:
            target.send(b"%d" % number)
        understood += _say(target, headers.header(target.ids))
        target.now += 0.01
    target.pass_time(_OLD)
    target.stop()
    return understood


def _say(target: Target, frame: bytes) -> bool:
    try:
        header: Any = link.decode_from_worker(frame)
    except ValueError:
        return False
    body = target.chance.choice(((), (_GARBAGE,), (b"", b"x")))
    worker = target.chance.choice(WORKERS)
    try:
        target.handle(WorkerMessage(worker, header, () if isinstance(header, link.JobUpdate) else body))
    except Exception as error:
        raise AssertionError(f"{worker!r} said {header!r}") from error
    return True


def show(codes: Counter[str]) -> str:
    """The codes as one line."""
    return msgspec.json.encode(dict(codes.most_common())).decode()
