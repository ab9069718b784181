"""What the supervisor and the broker tell each other: JSON lines over the broker's standard input and output.

The supervisor knows processes, the broker knows work; neither opens a socket to the other.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from protocol.enums import DeviceKind
from protocol.records import Record
from protocol.replies import Limits


class DeviceSlot(Record, frozen=True, kw_only=True):
    """A device that the supervisor keeps a worker for."""

    device_id: str
    kind: DeviceKind
    ram_budget_bytes: int = 0


class BrokerSpec(Record, frozen=True, kw_only=True):
    """All that the broker is told at its start."""

    commands: str
    events: str
    link: str
    devices: list[DeviceSlot]
    limits: Limits
    silence_ms: int
    admin: bool = False
    data: str = ""
    """The folder of the journal and of what was learned; empty: nothing outlives the process."""
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
    """A worker process is gone; `restarting` False: no other will follow."""

    child: str
    generation: int
    reason: str
    restarting: bool = True


class Drain(Line, frozen=True, kw_only=True, tag="drain"):
    """Take nothing new, end what runs within the time given, then exit."""

    seconds: float


class Ready(Line, frozen=True, kw_only=True, tag="ready"):
    """The broker takes commands at these addresses."""

    commands: str
    events: str
    link: str
    epoch: str


class KillChild(Line, frozen=True, kw_only=True, tag="kill"):
    """A worker that shows no sign of life, or does not stop: end its process."""

    child: str
    generation: int
    reason: str


ToBroker = ChildStarted | ChildExited | Drain
FromBroker = Ready | KillChild

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
