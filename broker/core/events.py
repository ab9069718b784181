"""What can happen to the core, and what it asks to be done: the whole of its contact with the world."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from broker.core.quotas import Sender
from protocol.link import FromWorker, Message
from protocol.supervision import ChildExited, ChildStarted, Drain, Line, RecycleChild

# events


class ClientMessage(Struct, frozen=True):
    """Frames from a client: whence they came, its envelope to mirror back, the payload and what follows it.

    `client` is its routing id, or that behind its key; `sender` is None where the endpoint asks for no keys.
    """

    client: bytes
    envelope: tuple[bytes, ...]
    payload: bytes
    attachments: tuple[bytes, ...] = ()
    sender: Sender | None = None


class WorkerMessage(Struct, frozen=True):
    """A message from a worker: its routing id, the header, and the body and attachments behind it."""

    worker: bytes
    header: FromWorker
    body: tuple[bytes, ...] = ()


class WorkerUnreachable(Struct, frozen=True):
    """A send to a worker found no route to it."""

    worker: bytes


class Subscribed(Struct, frozen=True):
    """Somebody new wants the events whose topics begin so, or, where not `begins`, the last who did is gone."""

    prefix: str
    begins: bool = True


class Tick(Struct, frozen=True):
    """Time has passed: a timer is due."""


Supervision = ChildStarted | ChildExited | RecycleChild | Drain
CoreEvent = ClientMessage | WorkerMessage | WorkerUnreachable | Subscribed | Tick | Supervision

# effects


class SendClient(Struct, frozen=True):
    """A reply: the envelope, the payload, the attachments."""

    client: bytes
    frames: tuple[bytes, ...]


class SendWorker(Struct, frozen=True):
    """A message to a worker; `body` travels behind the header untouched."""

    worker: bytes
    header: Message
    body: tuple[bytes, ...] = ()


class Publish(Struct, frozen=True):
    """An event, with the struct that both encodings are made from."""

    topic: str
    payload: Struct


class TellSupervisor(Struct, frozen=True):
    """A line to the supervisor."""

    line: Line


class Log(Struct, frozen=True):
    """A line for the operator; ids that are bytes come as hex."""

    level: str
    event: str
    fields: dict[str, Any]


class Remember(Struct, frozen=True):
    """Keep what was learned for the next start, in place of what was kept before."""

    data: bytes


class Exit(Struct, frozen=True):
    """Everything is answered: the broker may end."""


Effect = SendClient | SendWorker | Publish | TellSupervisor | Log | Remember | Exit
