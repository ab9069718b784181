"""What comes back of a command: an answer, or one of four exceptions.

Decides nothing about sockets or time.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.replies import GetResultReply, Reply

R = TypeVar("R", bound=Reply)
R_co = TypeVar("R_co", bound=Reply, covariant=True)


class Answer(Struct, Generic[R_co], frozen=True, kw_only=True):
    """A reply, its attachments' bytes in the order in which the reply names them, and the payload as received."""

    reply: R_co
    attachments: list[bytes] = []
    payload: bytes = b""


class CommandFailed(Fault):
    """The broker's final reply says that the command failed or was cancelled; `answer` is that reply."""

    def __init__(self, answer: Answer[Reply]) -> None:
        info = answer.reply.error or ErrorInfo(
            code=ErrorCode.INTERNAL_ERROR, message=answer.reply.message or "the reply names no error", retryable=False
        )
        super().__init__(info.code, info.message)
        self.info = info
        self.answer = answer


class NoAnswer(TimeoutError):
    """Nothing final came within the time that the client waits; the command may still be running.

    The same command may be sent again with the same `request_id`: it never runs twice. `refusal` says what a handshake
    that failed tells about keys; empty where nobody was there, or somebody is connected.
    """

    def __init__(
        self, request_id: str, endpoint: str, waited_seconds: float, *, connected: bool, refusal: str = ""
    ) -> None:
        where = "the broker is connected" if connected else refusal or "no broker is connected"
        super().__init__(f"no answer from {endpoint} within {waited_seconds:g} s ({where})")
        self.request_id = request_id
        self.endpoint = endpoint
        self.connected = connected
        self.refusal = refusal


class ClientClosed(RuntimeError):
    """The client was closed while the command was in flight, or before."""


class UnexpectedReply(RuntimeError):
    """A reply of another kind than the command has, or one that cannot be read."""


def as_kind(answer: Answer[Reply], kind: type[R]) -> Answer[R]:
    """The answer, known to be of this kind. Raises UnexpectedReply."""
    reply = answer.reply
    if not isinstance(reply, kind):
        raise UnexpectedReply(f"{reply.action} was answered by {type(reply).__name__}, not {kind.__name__}")
    return Answer(reply=reply, attachments=answer.attachments, payload=answer.payload)


def stored(answer: Answer[GetResultReply]) -> Answer[Reply]:
    """The final reply inside a `get_result` answer, with its attachments. Raises CommandFailed, UnexpectedReply."""
    reply = answer.reply.result
    if not isinstance(reply, Reply):
        raise UnexpectedReply(f"no stored reply of '{answer.reply.target_request_id}'")
    final = Answer(reply=reply, attachments=answer.attachments, payload=answer.payload)
    if not reply.success:
        raise CommandFailed(final)
    return final
