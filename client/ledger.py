"""The commands in flight: which reply belongs to which, what to send again, what has waited too long.

No I/O and no clock: callers pass frames and monotonic seconds. Both clients keep their commands here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import zmq

from client.answers import Answer, NoAnswer, UnexpectedReply
from client.wire import refusal_of
from protocol.actions import BY_COMMAND
from protocol.codec import decode_reply, encode_command
from protocol.commands import Attachment, Command
from protocol.enums import Encoding, ReplyState
from protocol.ids import uuid7 as new_request_id
from protocol.replies import Reply

GRACE_SECONDS = 10.0
"""What a client waits beyond the command's own deadline: a broker that is restarted is back within 2 s."""

RESEND_SECONDS = 15.0
"""Silence after which a command is sent again, doubled each time."""

Outcome = Answer[Reply] | Exception
Deliver = Callable[[Outcome], None]


class Flight:
    """One command that has no final answer yet."""

    def __init__(
        self,
        request_id: str,
        frames: list[bytes],
        deliver: Deliver,
        *,
        now: float,
        wait_seconds: float,
        resend_seconds: float,
    ) -> None:
        self.request_id = request_id
        self.frames = frames
        self.deliver = deliver
        self.wait_seconds = wait_seconds
        self.deadline = now + wait_seconds
        self.resend_gap = resend_seconds
        self.resend_at = now + resend_seconds


class Ledger:
    """Every flight by its request id; `endpoint`, and whether there is a key, are only named in errors."""

    def __init__(
        self, endpoint: str, encoding: Encoding, resend_seconds: float = RESEND_SECONDS, *, has_key: bool = False
    ) -> None:
        self.endpoint = endpoint
        self._has_key = has_key
        self._refusal = ""
        self.encoding = encoding
        self.resend_seconds = resend_seconds
        self.connected = False
        self._was_connected = False
        self.flights: dict[str, Flight] = {}

    def open(self, flight: Flight) -> None:
        """Take a flight in. Raises ValueError when its id is in flight already."""
        if flight.request_id in self.flights:
            raise ValueError(f"request_id '{flight.request_id}' is in flight already")
        self.flights[flight.request_id] = flight

    def flight(
        self, command: Command, attachments: Sequence[bytes], deliver: Deliver, now: float, wait: float | None
    ) -> Flight:
        """A flight for a command: its request id made and its attachments named where they are not."""
        ready = prepared(command, attachments)
        frames = [encode_command(ready, self.encoding), *attachments]
        wait_seconds = wait_seconds_of(ready) if wait is None else wait
        return Flight(
            ready.request_id or "",
            frames,
            deliver,
            now=now,
            wait_seconds=wait_seconds,
            resend_seconds=self.resend_seconds,
        )

    def receive(self, frames: Sequence[bytes], now: float) -> None:
        """Hand a message to the command that it answers; one that answers none is a repeat and is dropped."""
        try:
            reply = decode_reply(frames[0])
        except Exception as error:  # a reply that cannot be read ends its own command and no other
            self._unreadable(bytes(frames[0]), error)
            return
        flight = self._flight_of(reply)
        if flight is None:
            return
        flight.resend_at = now + flight.resend_gap
        if reply.state is not ReplyState.PROGRESS:
            del self.flights[flight.request_id]
        flight.deliver(Answer(reply=reply, attachments=list(frames[1:]), payload=bytes(frames[0])))

    def _unreadable(self, payload: bytes, error: Exception) -> None:
        # The id is text in both encodings, so the command can be found without reading the rest.
        flight = next((flight for flight in self.flights.values() if flight.request_id.encode() in payload), None)
        if flight is not None:
            del self.flights[flight.request_id]
            flight.deliver(UnexpectedReply(f"the reply to '{flight.request_id}' cannot be read: {error}"))

    def _flight_of(self, reply: Reply) -> Flight | None:
        if reply.request_id is not None:
            return self.flights.get(reply.request_id)
        # Only a payload past the size limit comes back without its id: the largest one sent is the one meant.
        return max(self.flights.values(), key=lambda flight: len(flight.frames[0]), default=None)

    def expire(self, now: float) -> None:
        """End what has waited too long, with NoAnswer."""
        for flight in [flight for flight in self.flights.values() if flight.deadline <= now]:
            del self.flights[flight.request_id]
            silence = NoAnswer(
                flight.request_id,
                self.endpoint,
                flight.wait_seconds,
                connected=self.connected,
                refusal=self._refusal,
            )
            flight.deliver(silence)

    def silent(self, now: float) -> list[Flight]:
        """The flights that are to be sent again because nothing was heard of them."""
        due = [flight for flight in self.flights.values() if flight.resend_at <= now]
        for flight in due:
            flight.resend_gap *= 2
            flight.resend_at = now + flight.resend_gap
        return due

    def reconnected(self) -> list[Flight]:
        """A connection stands. The flights to send again: all of them, unless it is the first connection."""
        again = list(self.flights.values()) if self._was_connected else []
        self.connected = self._was_connected = True
        self._refusal = ""
        return again

    def parted(self, event: int) -> None:
        """No connection stands, or none came to stand, as this event of the socket's monitor tells."""
        self.connected = False
        if event == zmq.Event.CLOSED:  # an attempt to connect found nobody
            self._refusal = ""
        self._refusal = refusal_of(event, self._has_key) or self._refusal

    def fail_all(self, error: Exception) -> None:
        """End every flight."""
        flights, self.flights = list(self.flights.values()), {}
        for flight in flights:
            flight.deliver(error)


def prepared(command: Command, attachments: Sequence[bytes]) -> Command:
    """The command as it travels: with a request id, and with its attachments named.

    Raises ValueError when the command names another number of attachments, or other lengths, than there are.
    """
    named = command.attachments or [
        Attachment(name=f"attachment-{index}", media_type=media_type_of(data), bytes=len(data))
        for index, data in enumerate(attachments)
    ]
    if [item.bytes for item in named] != [len(data) for data in attachments]:
        raise ValueError(f"the command names {len(named)} attachments, {len(attachments)} were given")
    return msgspec.structs.replace(command, request_id=command.request_id or new_request_id(), attachments=named)


_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"RIFF", "image/webp"))


def media_type_of(data: bytes) -> str:
    """The media type that an attachment's first bytes show."""
    return next((kind for magic, kind in _MAGIC if data.startswith(magic)), "application/octet-stream")


def wait_seconds_of(command: Command) -> float:
    """How long a client waits by default: the command's deadline, or its action's, and a grace."""
    action = BY_COMMAND.get(type(command))
    default = action.timeout_seconds if action is not None else GRACE_SECONDS
    return (command.timeout_seconds or default) + GRACE_SECONDS
