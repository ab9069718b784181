"""Frame lists against the core: it never raises, and answers each message once, with a reply or a typed error."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from broker import envelope
from broker.core.core import Core
from broker.core.events import ClientMessage, Effect, SendClient, SendWorker, Tick, WorkerMessage
from broker.core.finals import MemoryStore
from protocol.codec import decode_reply, encode_reply
from protocol.enums import DeviceKind, ModelStatus, ModelType, ReplyState
from protocol.errors import ErrorCode, Fault
from protocol.link import Assign, CatalogEntries, JobUpdate, ModelRef, Register, Report
from protocol.replies import FailedReply, Limits
from protocol.supervision import BrokerSpec, DeviceSlot, Drain
from protocol.telemetry import DeviceIdentity
from tests.fuzz.inputs import Inputs, mixed

START = datetime(2026, 1, 1, tzinfo=UTC)
CODES = {code.value for code in ErrorCode}
BATCH = 2000


class Target:
    """A core with two devices and a catalogue that answer nothing in time, or something odd."""

    def __init__(self, seed: int) -> None:
        self.now = 1000.0
        self.inputs = Inputs(seed + 1)
        self.replies: Counter[bytes] = Counter()
        self.codes: Counter[str] = Counter()
        ids = itertools.count()
        slots = [DeviceSlot(device_id=f"cpu:{index}", kind=DeviceKind.CPU) for index in range(2)]
        spec = BrokerSpec(
            commands="", events="", link="", devices=slots, limits=Limits(), silence_ms=10**9, version="0"
        )
        self.core = Core(
            spec,
            "epoch",
            clock=lambda: self.now,
            wall=lambda: START + timedelta(seconds=self.now),
            new_id=lambda: f"id-{next(ids)}",
            store=MemoryStore(),
        )
        for slot in slots:
            identity = DeviceIdentity(
                device_id=slot.device_id, uuid=slot.device_id, name="", kind=slot.kind, total_vram=1 << 30
            )
            worker = slot.device_id.encode()
            self.handle(
                WorkerMessage(worker, Register(worker_id="w", generation=1, pid=1, device=identity, ready=True))
            )
            self.handle(WorkerMessage(worker, Report(ready=True, models=[])))
        self.handle(WorkerMessage(b"cat", Register(worker_id="catalog", generation=1, pid=1)))
        model = ModelRef(model_id="m", path="/m", type=ModelType.SDXL, size_bytes=1, status=ModelStatus.Available)
        self.handle(WorkerMessage(b"cat", CatalogEntries(entries=[model], complete=True)))

    def handle(self, event: Any) -> None:
        """One event; what goes to clients is counted and read, what goes to workers sometimes answered strangely."""
        pending = self.core.handle(event, self.now)
        while pending:
            effects, pending = pending, []
            for effect in effects:
                pending += self._see(effect)

    def _see(self, effect: Effect) -> list[Effect]:
        if isinstance(effect, SendClient):
            self.replies[effect.client] += 1
            _, payload, _ = envelope.split(effect.frames)
            reply = decode_reply(payload)
            code = "" if reply.error is None else reply.error.code.value
            assert code in CODES or reply.success
            self.codes[code] += 1
        elif isinstance(effect, SendWorker) and isinstance(effect.header, Assign):
            chance = self.inputs.random
            if chance.random() < 0.5:
                update = JobUpdate(
                    request_id=effect.header.request_id if chance.random() < 0.8 else "nobody",
                    attempt=effect.header.attempt + chance.choice((0, 0, 1, -1)),
                    state=chance.choice(list(ReplyState)),
                    success=chance.random() < 0.5,
                )
                body = (
                    (encode_reply(failed_by(effect.header), effect.header.spelling),) if chance.random() < 0.5 else ()
                )
                return self.core.handle(WorkerMessage(effect.worker, update, body), self.now)
        return []

    def pass_time(self, seconds: float) -> None:
        """Let every deadline come."""
        end = self.now + seconds
        while (due := self.core.next_at()) is not None and due <= end:
            self.now = max(self.now, due)
            self.handle(Tick())
        self.now = end


def failed_by(assign: Assign) -> FailedReply:
    """What a worker answers that cannot do it."""
    error = Fault(ErrorCode.INFERENCE_FAILED, "it could not be done").info
    return FailedReply(
        request_id=assign.request_id,
        action=assign.action,
        success=False,
        state=ReplyState.FAILED,
        message=error.message,
        error=error,
    )


def fuzz(seed: int, count: int) -> Counter[str]:
    """So many messages, each of a client of its own: the replies' codes. Raises AssertionError with the input."""
    codes: Counter[str] = Counter()
    for batch in range(0, count, BATCH):
        target = Target(seed + batch)
        size = min(BATCH, count - batch)
        for index, frames in enumerate(mixed(seed + batch, size)):
            parts, payload, attachments = envelope.split(frames)
            try:
                target.handle(ClientMessage(b"%d" % index, parts, payload, attachments))
            except Exception as error:
                raise AssertionError(f"seed {seed + batch}, message {index}: {frames!r}") from error
            target.now += 0.001
        target.pass_time(4000.0)
        target.handle(Drain(seconds=0.0))  # for deadlines in a million years
        target.pass_time(10.0)
        wrong = [index for index in range(size) if target.replies[b"%d" % index] != 1]
        assert not wrong, f"seed {seed + batch}: messages {wrong[:5]} got no reply, or two"
        assert not len(target.core.context.jobs), f"seed {seed + batch}: {list(target.core.context.jobs)[:3]}"
        codes += target.codes
    return codes


def show(codes: Counter[str]) -> str:
    """The codes as one line."""
    return msgspec.json.encode(dict(codes.most_common())).decode()
