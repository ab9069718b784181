"""A device thread's engine in this process, driven by commands as the broker would send them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.codec import encode_command, encode_reply
from protocol.enums import Encoding, Lane, ModelStatus
from protocol.errors import ErrorInfo
from protocol.link import Assign, Message, ModelChanged, ModelRef, Spelling, WorkerSpec
from protocol.replies import Reply
from ramtier.tier import PrivateTier, RamTier
from worker.__main__ import open_device
from worker.engine import Engine
from worker.job import Job, Outcome, Progress

MIB = 1 << 20
R = TypeVar("R", bound=Reply)


def worker_spec(root: Path, device_id: str = "cpu:0", **changes: Any) -> WorkerSpec:
    fields = {
        "device_id": device_id,
        "link": "",
        "generation": 1,
        # A worker that starts clears what a former one of its device left there: one for each process of tests.
        "runtime": str(root.parent / f"runtime-{os.getpid()}"),
        "outputs": str(root / "outputs"),
        "model_roots": [str(root)],
        "budget_bytes": 64 * MIB,
        "ram_budget_bytes": 64 * MIB,
        "heartbeat_ms": 50,
        "telemetry_ms": 200,
    }
    return WorkerSpec(**{**fields, **changes})


def model_ref(root: Path, name: str) -> ModelRef:
    file = inspect(root / name, Roots([root]))
    return ModelRef(
        model_id=name, path=file.path, type=file.type, size_bytes=file.size_bytes, status=ModelStatus.Available
    )


def assignment(command: c.Command, ref: ModelRef | None, request_id: str = "r-1", **changes: Any) -> Assign:
    fields = {
        "request_id": request_id,
        "attempt": 1,
        "lane": Lane.DEVICE,
        "action": str(command.__struct_config__.tag),
        "spelling": Spelling(),
        "device_id": "cpu:0",
        "model": ref,
    }
    return Assign(**{**fields, **changes})


class Bench:
    """An engine with all that it told."""

    def __init__(
        self,
        root: Path,
        spec: WorkerSpec,
        clock: Callable[[], float] = time.monotonic,
        *,
        ram: RamTier | None = None,
    ) -> None:
        self.root = root
        self.told: list[Message] = []
        tier = ram if ram is not None else PrivateTier(spec.ram_budget_bytes)
        self.engine = Engine(spec, open_device(spec), self.told.append, clock, ram=tier)
        self.engine.start()

    def run(
        self,
        command: c.Command,
        name: str = "",
        attachments: Sequence[bytes] = (),
        on_progress: Callable[[Job, Progress], None] | None = None,
        **changes: Any,
    ) -> Outcome:
        """The outcome of a command about the model `name`, after a trip through the reply encoder."""
        ref = model_ref(self.root, name) if name else None
        device_id = self.engine.spec.device_id
        assign = assignment(command, ref, **{"device_id": device_id, **changes})
        job = Job(assign, encode_command(command, Encoding.JSON), list(attachments))
        job.on_progress = on_progress
        outcome = self.engine.run(job)
        encode_reply(outcome.reply, assign.spelling)
        return outcome

    def reply(self, kind: type[R], command: c.Command, name: str = "", **changes: Any) -> R:
        """The reply of a command that is expected to succeed."""
        reply = self.run(command, name, **changes).reply
        assert isinstance(reply, kind), reply.error
        return reply

    def error(self, command: c.Command, name: str = "", **changes: Any) -> ErrorInfo:
        """The error of a command that is expected to fail."""
        error = self.run(command, name, **changes).reply.error
        assert error is not None
        return error

    def moves(self) -> list[tuple[str, str, str]]:
        """(model id, tier, reason) of each move told."""
        changes = [message for message in self.told if isinstance(message, ModelChanged) and message.stage is None]
        return [(change.model_id, change.tier.value, change.reason) for change in changes]
