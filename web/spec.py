"""What the web server is told at its start: it reads neither environment nor configuration file."""

from __future__ import annotations

import msgspec
from msgspec import Struct


class WebSpec(Struct, frozen=True, kw_only=True):
    """`listener` is the inherited descriptor of the socket that listens; `key_file` the key to meet the broker with."""

    commands: str
    listener: int
    key_file: str = ""


def encode(spec: WebSpec) -> str:
    """As the JSON text that the process gets as its one argument."""
    return msgspec.json.encode(spec).decode()


def decode(text: str) -> WebSpec:
    """The spec that `encode` wrote."""
    return msgspec.json.decode(text, type=WebSpec)
