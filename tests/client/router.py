"""A real ROUTER that speaks the protocol's codec: what the client and the command line are tested against.

It answers each command with what the test's `answer` function gives, in the order in which that function sends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import msgspec
import zmq

from protocol.codec import Decoded, decode_command, encode_reply
from protocol.commands import Command
from protocol.link import Spelling
from protocol.replies import Reply


class Received:
    """One command as it came, and the way back to its sender."""

    def __init__(self, socket: zmq.Socket[bytes], route: bytes, decoded: Decoded, attachments: list[bytes]) -> None:
        self._socket = socket
        self._route = route
        self._decoded = decoded
        self.attachments = attachments

    @property
    def command(self) -> Command:
        return self._decoded.command

    @property
    def encoding(self) -> str:
        return self._decoded.encoding.value

    def send(self, reply: Reply, attachments: Sequence[bytes] = ()) -> None:
        """Answer under the command's own request id."""
        named = msgspec.structs.replace(reply, request_id=self.command.request_id)
        body = encode_reply(named, Spelling(encoding=self._decoded.encoding))
        self._socket.send_multipart([self._route, body, *attachments])

    def send_raw(self, payload: bytes) -> None:
        """Answer with a payload as it is."""
        self._socket.send_multipart([self._route, payload])


class Router:
    """A ROUTER on a free port with a thread that answers; `endpoint` is its address."""

    def __init__(self, answer: Callable[[Received], None], endpoint: str = "tcp://127.0.0.1:0") -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.bind(endpoint)
        self.endpoint = self._socket.last_endpoint.decode()
        self.seen: list[Received] = []
        self._answer = answer
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def __enter__(self) -> Router:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._context.destroy(0)

    def _run(self) -> None:
        while not self._closing.is_set():
            if not self._socket.poll(20):
                continue
            route, payload, *attachments = self._socket.recv_multipart()
            received = Received(self._socket, route, decode_command(payload), attachments)
            self.seen.append(received)
            self._answer(received)
