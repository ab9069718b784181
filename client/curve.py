"""The keys with which a client meets a broker that asks for some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from msgspec import Struct

from settings.keys import own_key, read_key


class CurveKeys(Struct, frozen=True, kw_only=True):
    """CURVE keys as Z85 text of 40 characters: the broker's public key and this client's own pair."""

    server: str
    public: str
    secret: str

    @classmethod
    def read(cls, path: Path) -> CurveKeys:
        """The keys of a file that `vrambroker keys make` wrote. Raises ConfigError."""
        key = read_key(path)
        return cls(server=key.server, public=key.public, secret=key.secret)

    @classmethod
    def find(cls) -> CurveKeys | None:
        """The keys that `VRAMBROKER_KEY` names, None without it. Raises ConfigError."""
        key = own_key()
        return None if key is None else cls(server=key.server, public=key.public, secret=key.secret)

    def apply(self, socket: Any) -> None:
        """Set the keys on a zmq socket that is not connected yet."""
        socket.curve_serverkey = self.server.encode()
        socket.curve_publickey = self.public.encode()
        socket.curve_secretkey = self.secret.encode()
