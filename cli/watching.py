"""Commands that look at devices: status, ps, devices, events."""

from __future__ import annotations

import time
from contextlib import suppress

from rich.live import Live

from cli.screens import devices as screens
from cli.screens.events import event_line
from cli.session import FAILED, FIRST_ANSWER_SECONDS, Session, checked_endpoint, connect, fail, orderly, session
from cli.streams import write_json
from cli.terminal import readable
from client.answers import Answer, CommandFailed, NoAnswer, as_kind
from client.events import EventStream
from client.sync import Client
from protocol.commands import GetVramModelStatus, Hello, ListDevices, Ping
from protocol.replies import GetVramModelStatusReply, HelloReply, ListDevicesReply
from settings.config import DEFAULT_EVENTS

POLL_SECONDS = 0.2


def status(endpoint: str | None, as_json: bool, *, model_id: str, wait_seconds: float | None) -> None:
    """Show the broker, its devices and what they hold; with a wait, fail unless every worker becomes ready."""
    ready = True
    if wait_seconds is not None:
        with orderly():
            ready = wait_until_ready(endpoint, wait_seconds)
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(GetVramModelStatus(model_id=model_id)), GetVramModelStatusReply)
        hello = as_kind(this.call(Hello()), HelloReply).reply
        this.answer(answer, screens.status_view(hello, this.client.endpoint, answer.reply))
        if not ready:
            late = [f"{device.device_id} {device.state.value}" for device in answer.reply.devices]
            fail(f"not every worker was ready within {wait_seconds:g} s: {', '.join(late) or 'no devices'}", FAILED)


def wait_until_ready(endpoint: str | None, wait_seconds: float) -> bool:
    """Whether every worker became ready in time; the broker is looked for anew until one answers."""
    until = time.monotonic() + wait_seconds
    while True:
        left = max(until - time.monotonic(), POLL_SECONDS)
        with connect(endpoint) as client, suppress(NoAnswer):
            client.call(Ping(), timeout=min(1.0, left))
            if _ready_by(client, until):
                return True
        if time.monotonic() >= until:
            return False


def _ready_by(client: Client, until: float) -> bool:
    while True:
        with suppress(CommandFailed):
            reply = as_kind(client.call(ListDevices(), timeout=FIRST_ANSWER_SECONDS), ListDevicesReply).reply
            if reply.devices and all(screens.is_ready(device) for device in reply.devices):
                return True
        if time.monotonic() >= until:
            return False
        time.sleep(POLL_SECONDS)


def ps(endpoint: str | None, as_json: bool, *, watch: bool, interval_seconds: float) -> None:
    """Show every device with its memory, its models and its work; with `watch`, until interrupted."""
    with session(endpoint, as_json) as this:
        if watch and not as_json:
            _watch(this, interval_seconds)
        else:
            answer = _devices(this)
            this.answer(answer, screens.ps_view(answer.reply))


def _watch(this: Session, interval_seconds: float) -> None:
    """Frames in one place on a terminal, one after another where there is none."""
    while not this.out.is_terminal:
        this.out.print(screens.ps_view(_devices(this).reply), "")
        this.out.file.flush()
        time.sleep(interval_seconds)
    with Live(console=this.out, screen=this.out.is_terminal, auto_refresh=False) as live:
        while True:
            live.update(screens.ps_view(_devices(this).reply), refresh=True)
            time.sleep(interval_seconds)


def _devices(this: Session, device_id: str = "") -> Answer[ListDevicesReply]:
    return as_kind(this.call(ListDevices(device_id=device_id)), ListDevicesReply)


def devices(endpoint: str | None, as_json: bool, *, device_id: str) -> None:
    """Show each device as hardware and as a process."""
    with session(endpoint, as_json) as this:
        answer = _devices(this, device_id)
        this.answer(answer, screens.devices_view(answer.reply))


def events(
    endpoint: str | None, as_json: bool, *, topics: list[str], count: int | None, events_endpoint: str | None
) -> None:
    """Show what the broker publishes, a line each, until interrupted or until `count` events came."""
    with session(endpoint, as_json) as this, subscribed(this, topics, events_endpoint) as stream:
        for number, published in enumerate(stream, start=1):
            if as_json:
                write_json(published.payload)
            else:
                this.out.print(event_line(readable(published)), soft_wrap=True)
            if number == count:
                return


def subscribed(this: Session, topics: list[str], events_endpoint: str | None) -> EventStream:
    """The broker's events, where it tells that they are unless an address is given."""
    if events_endpoint is None:
        return this.client.events(topics)
    return EventStream(topics, checked_endpoint(events_endpoint, DEFAULT_EVENTS))
