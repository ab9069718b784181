"""What a run says to its processes and they to it: MessagePack behind a length of four bytes, big end first."""

from __future__ import annotations

from typing import IO

import msgspec
from msgspec import Struct

from client.curve import CurveKeys
from loadgen.scenario import Scenario
from loadgen.tally import Packed


class Order(Struct, frozen=True, kw_only=True, tag="order"):
    """Which share of which scenario a process has; `run` stands in its request ids, which no other run has."""

    endpoint: str
    scenario: Scenario
    process: int
    run: str
    keys: CurveKeys | None = None


class Ready(Struct, frozen=True, tag="ready"):
    """The process has its sockets."""


class Start(Struct, frozen=True, kw_only=True, tag="start"):
    """Begin at this moment of the machine's monotonic clock."""

    at: float


class Progress(Struct, frozen=True, kw_only=True, tag="progress"):
    """Where a process is: counted since its start, warm-up included."""

    elapsed: float
    stage: int
    sent: int
    completed: int
    failed: int
    in_flight: int
    lag_ms: float


class Done(Struct, frozen=True, kw_only=True, tag="done"):
    """All that it counted."""

    tally: Packed


Message = Order | Ready | Start | Progress | Done
_decoder = msgspec.msgpack.Decoder(Message)


def write(stream: IO[bytes], message: Message) -> None:
    """Send one message. Raises BrokenPipeError."""
    body = msgspec.msgpack.encode(message)
    stream.write(len(body).to_bytes(4, "big") + body)
    stream.flush()


def read(stream: IO[bytes]) -> Message | None:
    """The next message; None at the stream's end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    body = stream.read(int.from_bytes(head, "big"))
    message: Message = _decoder.decode(body)
    return message
