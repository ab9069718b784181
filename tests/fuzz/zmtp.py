"""ZMTP 3.0 by hand over a plain TCP socket: a peer that can stop, lie or break off at any byte."""

from __future__ import annotations

import socket
import struct
from typing import Self

MORE, LONG, COMMAND = 1, 2, 4
PATIENCE_SECONDS = 20.0

GREETING = b"\xff" + b"\x00" * 8 + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\x00") + b"\x00" + b"\x00" * 31
"""64 bytes: signature, version, mechanism, as-server, filler."""


def property_of(name: bytes, value: bytes) -> bytes:
    """A metadata property of a READY command."""
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def ready(socket_type: bytes = b"DEALER", routing_id: bytes = b"") -> bytes:
    """The command that ends the handshake of the NULL mechanism."""
    body = b"\x05READY" + property_of(b"Socket-Type", socket_type) + property_of(b"Identity", routing_id)
    return frame(body, flags=COMMAND)


def frame(body: bytes, *, more: bool = False, flags: int = 0) -> bytes:
    """One frame of a message, or with `flags` of something else."""
    flags |= MORE if more else 0
    if len(body) > 255:
        return bytes([flags | LONG]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


def long_header(size_bytes: int, *, flags: int = LONG) -> bytes:
    """The head of a frame whose body is said to be so long."""
    return bytes([flags]) + struct.pack(">Q", size_bytes)


class RawPeer:
    """A TCP connection to a ZeroMQ endpoint such as `tcp://127.0.0.1:5555`; `handshake` makes it a peer."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("tcp://").rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def handshake(self, routing_id: bytes = b"", socket_type: bytes = b"DEALER") -> None:
        """Greet, and read the other side's greeting and READY."""
        self.socket.sendall(GREETING + ready(socket_type, routing_id))
        self.read(len(GREETING))
        self.read_frame()

    def read(self, count: int) -> bytes:
        """Exactly so many bytes. Raises ConnectionError where the other side hangs up."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise ConnectionError("hung up")
            data += piece
        return data

    def read_frame(self) -> bytes:
        """The body of the next frame."""
        flags = self.read(1)[0]
        size = struct.unpack(">Q", self.read(8))[0] if flags & LONG else self.read(1)[0]
        return self.read(size)

    def is_cut_off(self) -> bool:
        """Whether the other side has hung up, or does within the patience; what it still sends is thrown away."""
        try:
            while self.socket.recv(1 << 16):
                pass
        except TimeoutError:
            return False
        except OSError:
            pass
        return True
