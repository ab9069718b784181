"""The Python client: `Client` for threads, `AsyncClient` for asyncio, `EventStream` for what the broker publishes.

A reply with `success` false is raised as `CommandFailed`, a `protocol.errors.Fault` with the reply beside it; silence
is raised as `NoAnswer`. Nothing is imported before it is asked for, so that a short command starts fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from client.aio import AsyncClient
    from client.answers import Answer, ClientClosed, CommandFailed, NoAnswer, UnexpectedReply
    from client.curve import CurveKeys
    from client.events import AsyncEventStream, EventStream, Published
    from client.images import Picture, pictures
    from client.sync import Client, Pending

__all__ = [
    "Answer",
    "AsyncClient",
    "AsyncEventStream",
    "Client",
    "ClientClosed",
    "CommandFailed",
    "CurveKeys",
    "EventStream",
    "NoAnswer",
    "Pending",
    "Picture",
    "Published",
    "UnexpectedReply",
    "pictures",
]

_HOMES = {
    "client.aio": ("AsyncClient",),
    "client.answers": ("Answer", "ClientClosed", "CommandFailed", "NoAnswer", "UnexpectedReply"),
    "client.curve": ("CurveKeys",),
    "client.events": ("AsyncEventStream", "EventStream", "Published"),
    "client.images": ("Picture", "pictures"),
    "client.sync": ("Client", "Pending"),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'client' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
