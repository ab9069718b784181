"""What a worker and the keeper of the machine's RAM tier tell each other: one request, one answer, MessagePack.

A block of memory travels beside its message as a descriptor. Keys name contents: equal keys, equal weights.
"""

from __future__ import annotations

import enum

import msgspec

from protocol.records import Record

PRIVATE = "own:"
"""How keys begin that nobody but their holder knows: such contents go with it."""


class Verdict(enum.Enum):
    """What became of a request."""

    DONE = "done"
    ABSENT = "absent"
    BUSY = "busy"
    """Another worker is about to bring one of them."""
    NO_ROOM = "no-room"
    REFUSED = "refused"


class Find(Record, frozen=True, kw_only=True, tag="find"):
    """Lend this content's block, which stays in the tier until `Return`."""

    key: str


class Return(Record, frozen=True, kw_only=True, tag="return"):
    """The block that was lent is not read any more."""

    key: str


class Hold(Record, frozen=True, kw_only=True, tag="hold"):
    """Contents that belong together are held by the asker from here on: all, or none where one is not there."""

    keys: list[str]


class Reserve(Record, frozen=True, kw_only=True, tag="reserve"):
    """Room for contents, by key in bytes, all or none: those that are there are held by the asker from here on, the
    others it is about to bring. `evict`: what was used longest ago may go for them.
    """

    sizes: dict[str, int]
    evict: bool


class Publish(Record, frozen=True, kw_only=True, tag="publish"):
    """The content that room was reserved for; its block comes beside.

    `spare`: nobody holds it yet, and it is the first to go where room is needed.
    """

    key: str
    spare: bool = False


class Abandon(Record, frozen=True, kw_only=True, tag="abandon"):
    """The room that was reserved is not needed."""

    key: str


class LetGo(Record, frozen=True, kw_only=True, tag="let-go"):
    """The asker needs these no more: what nobody else holds leaves the tier."""

    keys: list[str]


class Ask(Record, frozen=True, kw_only=True, tag="ask"):
    """How full the tier is, and what the asker has lost."""


class Answer(Record, frozen=True, kw_only=True):
    """The answer to any request, with the tier's bytes after it; `lost` are contents of the asker's that were evicted.

    Each is told once.
    """

    verdict: Verdict
    used_bytes: int
    budget_bytes: int
    freed_bytes: int = 0
    wanted: list[str] = []
    """Of those that room was reserved for: what is to be brought."""
    lost: list[str] = []


Request = Find | Return | Hold | Reserve | Publish | Abandon | LetGo | Ask

_encoder = msgspec.msgpack.Encoder()
_requests: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
_answers: msgspec.msgpack.Decoder[Answer] = msgspec.msgpack.Decoder(Answer)


def encode(message: Request | Answer) -> bytes:
    """One message."""
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    """Raises msgspec.DecodeError."""
    return _requests.decode(data)


def decode_answer(data: bytes) -> Answer:
    """Raises msgspec.DecodeError."""
    return _answers.decode(data)
