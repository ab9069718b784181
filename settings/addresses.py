"""Addresses as people write them: what is one, what was probably meant, and where a bound one is reached."""

from __future__ import annotations

import re

_TCP = re.compile(r"tcp://(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5}|\*)")
_IPC = re.compile(r"ipc://\S.*")
_HOST_AND_PORT = re.compile(r"(?P<host>\[[^\]]+\]|[^:/\s]+):(?P<port>\d{1,5}|\*)")
_ANY_HOST = ("*", "0.0.0.0", "[::]")
_ANY_PORT = (":0", ":*")
LOOPBACK = "127.0.0.1"
OFF = "off"
"""Of the web server: none."""
_MAX_PORT = 65_535


def checked(address: str, *, default_port: int) -> str:
    """A ZeroMQ address, `tcp://HOST:PORT` or `ipc://PATH`. Raises ValueError, which says what was probably meant."""
    text = address.strip()
    match = _TCP.fullmatch(text)
    if match is not None and _is_port(match["port"]):
        return text
    if _IPC.fullmatch(text):
        return text
    raise ValueError(f"expected tcp://HOST:PORT or ipc://PATH{_meant(text, default_port)}")


def checked_web(address: str, *, default_port: int) -> str:
    """`HOST:PORT` of a web server, or `off`. Raises ValueError, which says what was probably meant."""
    text = address.strip()
    match = _HOST_AND_PORT.fullmatch(text)
    if text == OFF or (match is not None and _is_port(match["port"])):
        return text
    bare = text.partition("://")[2] or text
    raise ValueError(f"expected HOST:PORT or off{_meant(bare, default_port).replace('tcp://', '')}")


def is_fixed(address: str) -> bool:
    """Whether it says where something is; port 0 or `*` only says where something may be bound."""
    return bool(address) and not address.endswith(_ANY_PORT)


def reachable(bound: str, beside: str = "") -> str:
    """Where a bound address is reached: one on every interface at the host of `beside`, which is known to be reached,
    or else on loopback."""
    match = _TCP.fullmatch(bound)
    if match is None or match["host"] not in _ANY_HOST:
        return bound
    known = _TCP.fullmatch(beside)
    host = known["host"] if known is not None and known["host"] not in _ANY_HOST else LOOPBACK
    return f"tcp://{host}:{match['port']}"


def _is_port(text: str) -> bool:
    return text == "*" or int(text) <= _MAX_PORT


def _meant(text: str, default_port: int) -> str:
    """The address that lacks only its scheme or its port, as a question; empty where nothing is near."""
    scheme, separator, rest = text.rpartition("://")
    rest = rest.rstrip("/")
    if separator and scheme != "tcp":
        return ""
    if _HOST_AND_PORT.fullmatch(rest) and _is_port(rest.rpartition(":")[2]):
        return f"; did you mean tcp://{rest}?"
    if re.fullmatch(r"[A-Za-z0-9.*-]+:?", rest):
        return f": it has no port; did you mean tcp://{rest.rstrip(':')}:{default_port}?"
    return ""
