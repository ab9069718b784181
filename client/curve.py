"""The keys with which a client meets a broker that is not on loopback."""

from __future__ import annotations

from typing import Any

from msgspec import Struct


class CurveKeys(Struct, frozen=True, kw_only=True):
    """CURVE keys as Z85 text of 40 characters: the broker's public key and this client's own pair."""

    server: str
    public: str
    secret: str

    def apply(self, socket: Any) -> None:
        """Set the keys on a zmq socket that is not connected yet."""
        socket.curve_serverkey = self.server.encode()
        socket.curve_publickey = self.public.encode()
        socket.curve_secretkey = self.secret.encode()
