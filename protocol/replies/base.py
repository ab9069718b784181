"""What every reply has, and the replies that any command may get."""

from __future__ import annotations

from msgspec import UNSET, Struct, UnsetType, field

from protocol.enums import (
    ReplyState,
)
from protocol.errors import ErrorInfo
from protocol.records import (
    Record,
)
from protocol.telemetry import MemoryPressure


class Timing(Record, frozen=True, kw_only=True):
    """Milliseconds of a command: in the queue, in all, and of each phase that ran."""

    queue_ms: float = 0.0
    total_ms: float = 0.0
    read_ms: float | UnsetType = UNSET
    build_ms: float | UnsetType = UNSET
    promote_ms: float | UnsetType = UNSET
    free_ms: float | UnsetType = UNSET
    encode_ms: float | UnsetType = UNSET
    denoise_ms: float | UnsetType = UNSET
    decode_ms: float | UnsetType = UNSET
    per_step_ms: float | UnsetType = UNSET
    header_ms: float | UnsetType = UNSET
    tensors_ms: float | UnsetType = UNSET
    hash_ms: float | UnsetType = UNSET
    shapes_ms: float | UnsetType = UNSET
    before_ms: float | UnsetType = UNSET
    steps_ms: float | UnsetType = UNSET
    after_ms: float | UnsetType = UNSET
    save_ms: float | UnsetType = UNSET
    warmup_ms: float | UnsetType = UNSET
    runs_ms: float | UnsetType = UNSET
    query_ms: float | UnsetType = UNSET


class Reply(Struct, frozen=True, kw_only=True):
    """What every reply has. `not_measured` maps the path of a field that has no figure to the reason."""

    request_id: str | None
    action: str
    success: bool = True
    state: ReplyState = ReplyState.COMPLETED
    message: str = ""
    warnings: list[str] = []
    error: ErrorInfo | None = None
    timing: Timing = field(default_factory=Timing)
    not_measured: dict[str, str] = {}


class ModelReply(Reply, frozen=True, kw_only=True):
    """A reply about a model on a device; `memory_pressure` None where no device answered."""

    device_id: str = ""
    model_id: str = ""
    memory_pressure: MemoryPressure | None = None


class FailedReply(ModelReply, frozen=True, kw_only=True):
    """The final reply of a command that failed or was cancelled."""

    validation_results: dict[str, str] | UnsetType = UNSET


class AcceptedReply(ModelReply, frozen=True, kw_only=True):
    """The one reply of a command that is not waited for."""


class ProgressReply(ModelReply, frozen=True, kw_only=True):
    """How far a running command has come: denoising steps, or bytes of a load."""

    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None
    stage: str | UnsetType = UNSET
    bytes_done: int | UnsetType = UNSET
    bytes_total: int | UnsetType = UNSET


class Limits(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits in force; bytes unless the name says otherwise."""

    queued_per_client: int = 1024
    queued_per_device: int = 4096
    queued_total: int = 16384
    payload_bytes: int = 1 << 20
    payload_depth: int = 64
    attachments: int = 16
    attachments_bytes: int = 128 << 20
    page_size: int = 1000
    steps: int = 10_000
    num_images: int = 64
    min_side: int = 8
    max_side: int = 8192
    side_multiple: int = 8
    prompt_bytes: int = 16 << 10
    benchmark_runs: int = 10_000
    warmup_runs: int = 10_000
    request_id_chars: int = 128
