"""What a shell completes: names that the running broker knows. Nothing is offered where no broker answers at once.

What talks to the broker is imported when a shell asks.
"""

# ruff: noqa: PLC0415 - a completion imports what it needs when it is asked for

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from client.sync import Client
    from protocol.replies import ListDevicesReply

ANSWER_SECONDS = 0.7
"""A shell that hangs on a key is worse than one that offers nothing."""

MOST = 1000

Offers = list[tuple[str, str]]


def models(context: typer.Context, incomplete: str) -> Offers:
    """Model ids that begin so, with what each is."""
    from client.answers import as_kind
    from protocol.commands import ListModels
    from protocol.replies import ListModelsReply

    def ask(client: Client) -> Offers:
        command = ListModels(search_query=incomplete or None, page_size=MOST)
        reply = as_kind(client.call(command, timeout=ANSWER_SECONDS), ListModelsReply).reply
        return [(model.id, f"{model.type.value}, {model.status.value}") for model in reply.models]

    return _offered(context, incomplete, ask)


def devices(context: typer.Context, incomplete: str) -> Offers:
    """Device ids that begin so, with what each is."""

    def ask(client: Client) -> Offers:
        return [(device.device_id, f"{device.name}, {device.state.value}") for device in _devices(client).devices]

    return _offered(context, incomplete, ask)


def requests(context: typer.Context, incomplete: str) -> Offers:
    """Request ids of what runs and waits, with what each is."""

    def ask(client: Client) -> Offers:
        reply = _devices(client)
        running = [device.running for device in reply.devices if device.running is not None]
        offers = [(command.request_id, f"{command.action} {command.model_id}") for command in running]
        return offers + [(waits.request_id, f"{waits.action} {waits.model_id}") for waits in reply.waiting]

    return _offered(context, incomplete, ask)


def _devices(client: Client) -> ListDevicesReply:
    from client.answers import as_kind
    from protocol.commands import ListDevices
    from protocol.replies import ListDevicesReply as Kind

    return as_kind(client.call(ListDevices(), timeout=ANSWER_SECONDS), Kind).reply


def _offered(context: typer.Context, incomplete: str, ask: Callable[[Client], Offers]) -> Offers:
    """What the broker knows and begins so; text that a terminal would obey is spelled out."""
    from settings.printable import printable

    with suppress(Exception), _connected(context) as client:
        return [(name, printable(what)) for name, what in ask(client) if name.startswith(incomplete)]
    return []


@contextmanager
def _connected(context: typer.Context) -> Iterator[Client]:
    """A client of the broker that the words so far mean; the root's options were read, but not yet obeyed."""
    from client.sync import Client
    from settings.config import choose_file
    from settings.keys import choose

    options = context.find_root().params
    if options.get("config"):
        choose_file(options["config"])
    if options.get("key"):
        choose(options["key"])
    with Client(options.get("endpoint")) as client:
        yield client
