"""What the supervisor and the broker tell each other: JSON lines over the broker's standard input and output.

The supervisor knows processes, the broker knows work; neither opens a socket to the other.
"""

from __future__ import annotations

import enum

import msgspec
from msgspec import Struct

from protocol.enums import DeviceKind, LoadingStrategy, LoadPriority, ModelPrecision
from protocol.records import Record
from protocol.replies import Limits


class DeviceSlot(Record, frozen=True, kw_only=True):
    """A device that the supervisor keeps a worker for; `drained`: an administrator told a former broker to spare it."""

    device_id: str
    kind: DeviceKind
    ram_budget_bytes: int = 0
    drained: bool = False


class ProgressBudgets(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Seconds that a device's thread may go without any advance: `start` until it is ready, then for each action."""

    start: float = 300.0
    load_model: float = 120.0
    unload_model: float = 120.0
    validate_model: float = 120.0
    optimize_model: float = 600.0
    benchmark_model: float = 120.0
    load_component: float = 120.0
    unload_component: float = 120.0
    generate: float = 120.0


class Door(enum.Enum):
    """An endpoint that keys can guard; its value is the endpoint's ZAP domain and its setting's name."""

    COMMANDS = "commands"
    EVENTS = "events"
    WORKERS = "workers"


class Quota(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one key may ask for: bytes of a message, commands a second on average and at once, work under way."""

    message_bytes: int = 129 << 20
    commands_per_second: float = 2000.0
    burst: int = 4000
    in_flight: int = 4096


class Preload(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to be loaded without anybody asking: on `device`, "" where it is placed best, `all` on each.

    `keep_alive` in seconds, -1 until evicted. `loading_strategy` lazy brings it into the RAM tier alone.
    """

    model: str
    device: str = ""
    precision: ModelPrecision = ModelPrecision.Auto
    loading_strategy: LoadingStrategy = LoadingStrategy.DEFAULT
    priority: LoadPriority = LoadPriority.Normal
    keep_alive: float = -1.0
    pin: bool = False


class BrokerSpec(Record, frozen=True, kw_only=True):
    """All that the broker is told at its start."""

    commands: str
    events: str
    link: str
    devices: list[DeviceSlot]
    limits: Limits
    silence_ms: int
    results_seconds: float = 600.0
    progress: ProgressBudgets = ProgressBudgets()
    admin: bool = False
    survivors: list[str] = []
    """Devices whose workers outlived the broker before this one."""
    data: str = ""
    """The folder of the journal and of what was learned; empty: nothing outlives the process."""
    guarded: list[Door] = []
    """Endpoints that are served with CURVE keys only."""
    keys: str = ""
    """The keys folder."""
    quota: Quota = Quota()
    quotas: dict[str, Quota] = {}
    """By a key's name, where it has one of its own."""
    preload: list[Preload] = []
    commands_fd: int = -1
    events_fd: int = -1
    """Listening sockets of these addresses that the supervisor keeps; -1: the broker binds the address itself."""
    version: str


class Line(Struct, frozen=True, kw_only=True, tag_field="t"):
    """One line."""


class ChildStarted(Line, frozen=True, kw_only=True, tag="started"):
    """A worker process runs; `child` is a device id or `catalog`."""

    child: str
    generation: int
    pid: int
    restarts: int


class ChildExited(Line, frozen=True, kw_only=True, tag="exited"):
    """A worker process is gone; `restarting` False: no other will follow before an administrator asks for one."""

    child: str
    generation: int
    reason: str
    restarting: bool = True
    restarts: int = 0


class RecycleChild(Line, frozen=True, kw_only=True, tag="recycle"):
    """A worker has to be replaced once it is idle."""

    child: str
    generation: int
    reason: str


class Drain(Line, frozen=True, kw_only=True, tag="drain"):
    """Take nothing new, end what runs within the time given, then exit."""

    seconds: float


class BindLink(Line, frozen=True, kw_only=True, tag="bind-link"):
    """The worker link's socket was removed from its folder: bind it again, so that new workers find it."""


class Ready(Line, frozen=True, kw_only=True, tag="ready"):
    """The broker takes commands at these addresses."""

    commands: str
    events: str
    link: str
    epoch: str


class Alive(Line, frozen=True, kw_only=True, tag="alive"):
    """The broker's loop turns."""


class ChildReady(Line, frozen=True, kw_only=True, tag="child-ready"):
    """This incarnation of a worker can execute commands."""

    child: str
    generation: int


class ChildServed(Line, frozen=True, kw_only=True, tag="child-served"):
    """This incarnation of a worker has executed a command."""

    child: str
    generation: int


class KillChild(Line, frozen=True, kw_only=True, tag="kill"):
    """A worker that shows no sign of life, or does not stop: end its process."""

    child: str
    generation: int
    reason: str


class RestartChild(Line, frozen=True, kw_only=True, tag="restart"):
    """Replace this incarnation of a worker at once, whatever it does and however often it died before."""

    child: str
    generation: int
    reason: str


class DrainChild(Line, frozen=True, kw_only=True, tag="drain-child"):
    """An administrator drained a device, or took that back: the next broker is to know it too."""

    child: str
    drained: bool


ToBroker = ChildStarted | ChildExited | RecycleChild | BindLink | Drain
FromBroker = Ready | Alive | ChildReady | ChildServed | KillChild | RestartChild | DrainChild

_encoder = msgspec.json.Encoder()
_to_broker: msgspec.json.Decoder[ToBroker] = msgspec.json.Decoder(ToBroker)
_from_broker: msgspec.json.Decoder[FromBroker] = msgspec.json.Decoder(FromBroker)


def line(message: Line) -> bytes:
    """A message as one line with its end."""
    return _encoder.encode(message) + b"\n"


def to_broker(text: bytes) -> ToBroker:
    """A line from the supervisor. Raises msgspec.DecodeError."""
    return _to_broker.decode(text)


def from_broker(text: bytes) -> FromBroker:
    """A line from the broker. Raises msgspec.DecodeError."""
    return _from_broker.decode(text)
