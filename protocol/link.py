"""The link between the broker and its workers (the catalogue is a worker without a device).

A message is `[header][body][attachment ...]`; the header is MessagePack of one struct of this file. A command's body
and attachments travel untouched behind `Assign`; a reply's behind `JobUpdate`. Both sides are of one version: nothing
here is tolerant.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
from msgspec import Struct

from protocol.drawing import Mode
from protocol.enums import (
    Encoding,
    EnumForm,
    Lane,
    LoadSource,
    ModelStatus,
    ModelType,
    Naming,
    ReplyState,
    Tier,
)
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration, Record
from protocol.replies import RefusedFile
from protocol.telemetry import DeviceIdentity, DeviceReport, ModelResidency, Telemetry

CATALOG_ID = "catalog"
"""The worker id of the catalogue."""


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="t"):
    """A header frame."""


class Spelling(Record, frozen=True, kw_only=True):
    """How the reply is to be written."""

    encoding: Encoding = Encoding.JSON
    naming: Naming = Naming.SNAKE
    enums: EnumForm = EnumForm.NAME


PROFILE_RAM_SHARE = 0.1
"""What the wire says of virtual models: a load from the RAM tier by one from disk."""


class ProfileFigures(Record, frozen=True, kw_only=True):
    """What the profile of a virtual model says of it: milliseconds of a load from disk and of a step, peak bytes."""

    load_ms: float
    step_ms: float
    peak_bytes: int


class ModelRef(Record, frozen=True, kw_only=True):
    """What a worker needs to load a model: resolved by the catalogue, `path` absolute and beneath a root.

    `size_bytes` are those of its weight files, without tensors that nothing uses. `profile` is None for a model that
    is no profile. `modes` are the ways to draw with it, empty where none is known. `working_bytes` is what its family's
    formula gives for a picture of the native side, beside the weights.
    """

    model_id: str
    path: str
    type: ModelType
    size_bytes: int
    status: ModelStatus
    config_path: str = ""
    revision: int = 0
    profile: ProfileFigures | None = None
    modes: list[Mode] = []
    native_side: int = 0
    working_bytes: int = 0


# worker -> broker


class Holding(Record, frozen=True, kw_only=True):
    """A command that a worker still knows of: as it was assigned, with its payload and attachments.

    `ended`: it is done, and its outcome, which the broker may have missed, follows the registration.
    """

    assign: Assign
    body: list[bytes]
    ended: bool


class Register(Message, frozen=True, kw_only=True, tag="register"):
    """A worker's first message, again after every `Welcome` of a new epoch.

    `device` None: the catalogue. `holding` are the commands that it runs or whose outcome it has not seen acknowledged.
    """

    worker_id: str
    generation: int
    pid: int
    device: DeviceIdentity | None = None
    ready: bool = False
    holding: list[Holding] = []


class Beat(Message, frozen=True, kw_only=True, tag="beat"):
    """A sign of life of the I/O thread; `progress_count` grows whenever the device thread advances."""

    progress_count: int


class Report(Message, frozen=True, kw_only=True, tag="report"):
    """The state of a device: always sent before the reply of the command that changed it.

    `models` None: unchanged since the last report. `ready` is true once commands can be executed. `leaked_bytes` is
    what stays in use although nothing is held any more, 0 where that is within the tolerance.
    """

    ready: bool
    telemetry: Telemetry | None = None
    models: list[ModelResidency] | None = None
    leaked_bytes: int = 0


class ModelChanged(Message, frozen=True, kw_only=True, tag="model"):
    """A model moved, or advances while it loads: the content of a `model.*` event.

    `freed_bytes` are those that the device had back, without what other models keep there; no part of the event.
    """

    model_id: str
    tier: Tier
    from_tier: Tier
    bytes: int
    freed_bytes: int = 0
    reason: str
    stage: str | None = None
    bytes_done: int | None = None
    bytes_total: int | None = None
    eta_ms: float | None = None


class SavedModel(Record, frozen=True, kw_only=True):
    """A model that a worker wrote beneath a root: the catalogue is told of it before the reply goes out."""

    model_id: str
    path: str


class RunFacts(Record, frozen=True, kw_only=True):
    """What a finished device command measured, for usage statistics and estimates: milliseconds, images, bytes.

    `source` is where a load started from, None where nothing was loaded; `weights_bytes` are the model's on the device;
    `steps`, `width` and `height` (pixels) are those of the run, its defaults filled in. Of several `runs` of one shape
    `run_ms` and `images` are the sums.
    """

    load_ms: float | None = None
    run_ms: float | None = None
    runs: int = 1
    images: int = 0
    peak_bytes: int | None = None
    source: LoadSource | None = None
    weights_bytes: int = 0
    steps: int = 0
    width: int = 0
    height: int = 0
    saved: SavedModel | None = None


class Farewell(Message, frozen=True, kw_only=True, tag="farewell"):
    """The last word of a worker whose device is of no use any more: it ends at once, whatever it runs is lost."""

    reason: str


class JobUpdate(Message, frozen=True, kw_only=True, tag="job"):
    """A reply to a command, progress or final, with its body and attachments behind it.

    A `progress` update without a body only tells the broker how far the command is.
    """

    request_id: str
    attempt: int
    state: ReplyState
    success: bool
    error_code: ErrorCode | None = None
    model_id: str = ""
    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None
    facts: RunFacts | None = None


class CatalogEntries(Message, frozen=True, kw_only=True, tag="catalog"):
    """Models that the catalogue added or changed, and ids that it dropped; `complete` replaces all that was known.

    A complete list comes in pieces, so that nobody waits while it is taken in: all but the last have `more`.
    """

    entries: list[ModelRef]
    removed: list[str] = []
    complete: bool = False
    more: bool = False
    change: str = ""


class CatalogRefusals(Message, frozen=True, kw_only=True, tag="refusals"):
    """All files that scans found and refused; replaces what was known of them."""

    files: list[RefusedFile]


FromWorker = Register | Beat | Report | ModelChanged | Farewell | JobUpdate | CatalogEntries | CatalogRefusals

# broker -> worker


class Welcome(Message, frozen=True, kw_only=True, tag="welcome"):
    """The broker knows the worker; a new `epoch` asks it to register again."""

    epoch: str


SCOPE_END = "\t"
"""Ends the scope, a key, in a request id as the broker knows it; no id on the wire has one."""


def wire_id(request_id: str) -> str:
    """A request id of the broker's as clients know it: without its scope."""
    return request_id.rpartition(SCOPE_END)[2]


class Assign(Message, frozen=True, kw_only=True, tag="assign"):
    """A command to execute, its body behind it exactly as the client sent it.

    `request_id` may differ from the body's; `echo_id` is the one for the reply. `warnings` stand in the reply
    before the worker's own. `deadline_ms` is what is left of the deadline, None for none. `model` is None when the
    command names no model that the catalogue knows; `source` is the one that a part is to come from. `device_id` is
    where the command runs, as the reply shall name it.
    """

    request_id: str
    attempt: int
    lane: Lane
    action: str
    spelling: Spelling
    warnings: list[str] = []
    queue_ms: float = 0.0
    deadline_ms: float | None = None
    stream_progress: bool = False
    device_id: str = ""
    model: ModelRef | None = None
    source: ModelRef | None = None

    @property
    def echo_id(self) -> str:
        """The request id as the client knows it."""
        return wire_id(self.request_id)


class CancelJob(Message, frozen=True, kw_only=True, tag="cancel"):
    """Stop this attempt at its next step; `code` and `reason` are what its reply says."""

    request_id: str
    attempt: int
    code: ErrorCode = ErrorCode.CANCELLED
    reason: str


class Devices(Message, frozen=True, kw_only=True, tag="devices"):
    """To the catalogue: every device as it stands now; sent before any command that could see it."""

    devices: list[DeviceReport]


class UsageFact(Message, frozen=True, kw_only=True, tag="usage"):
    """To the catalogue: a device command ended."""

    model_id: str
    device_id: str
    action: str
    success: bool
    ended_at: datetime
    facts: RunFacts | None = None


class Prefetch(Message, frozen=True, kw_only=True, tag="prefetch"):
    """The model that the device will have to read next, and how it is wanted; None: nothing that would have to be read.

    A hint: it may be read into the RAM tier while another command runs. The newest one is in force.
    """

    model: ModelRef | None = None
    configuration: ModelLoadConfiguration | None = None
    config_path: str = ""


class Stop(Message, frozen=True, kw_only=True, tag="stop"):
    """Finish what runs within the time given, then exit."""

    drain_seconds: float


ToWorker = Welcome | Assign | CancelJob | Devices | UsageFact | Prefetch | Stop


# what the supervisor starts children with


class WorkerSpec(Record, frozen=True, kw_only=True):
    """All that a device worker is told at its start; it reads neither environment nor configuration file.

    `key_file` holds the CURVE keys for the link, where it has some.
    `budget_bytes` is the VRAM of a cpu or virtual device; `max_side` bounds a client's pictures, in pixels,
    and `max_images` one batch of them.
    `threads`: what it computes with on the processor; 0: as torch chooses.
    `ram_tier_fd` is its inherited channel to the machine's RAM tier, of `ram_budget_bytes` for all workers; -1: it has
    a tier of that size for itself.
    """

    device_id: str
    link: str
    generation: int
    runtime: str
    outputs: str
    model_roots: list[str]
    budget_bytes: int
    ram_budget_bytes: int
    ram_tier_fd: int = -1
    reserve_bytes: int = 0
    cuda_uuid: str = ""
    threads: int = 0
    key_file: str = ""
    heartbeat_ms: int = 500
    telemetry_ms: int = 1000
    max_side: int = 8192
    max_images: int = 64


class CatalogSpec(Record, frozen=True, kw_only=True):
    """All that the catalogue is told at its start."""

    link: str
    generation: int
    runtime: str
    data: str
    model_roots: list[str]
    key_file: str = ""
    heartbeat_ms: int = 500


_encoder = msgspec.msgpack.Encoder()
_from_worker: msgspec.msgpack.Decoder[FromWorker] = msgspec.msgpack.Decoder(FromWorker)
_to_worker: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)


def encode(message: Message) -> bytes:
    """The header frame of a message."""
    return _encoder.encode(message)


def decode_from_worker(frame: bytes) -> FromWorker:
    """A header that a worker sent. Raises msgspec.DecodeError (or ValueError) on anything else."""
    try:
        return _from_worker.decode(frame)
    except RecursionError:
        raise ValueError("the header is nested too deeply") from None


def decode_to_worker(frame: bytes) -> ToWorker:
    """A header that the broker sent. Raises msgspec.DecodeError (or ValueError) on anything else."""
    return _to_worker.decode(frame)


def encode_spec(spec: WorkerSpec | CatalogSpec) -> str:
    """A spec as the JSON text that a child gets as its one argument."""
    return msgspec.json.encode(spec).decode()


def decode_worker_spec(text: str) -> WorkerSpec:
    """The spec that `encode_spec` wrote."""
    return msgspec.json.decode(text, type=WorkerSpec)


def decode_catalog_spec(text: str) -> CatalogSpec:
    """The spec that `encode_spec` wrote."""
    return msgspec.json.decode(text, type=CatalogSpec)
