"""The pages: is it alive, does it take work, its figures. Each asks the broker as it is asked; nothing is kept."""

from __future__ import annotations

import time
from typing import Any

from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from client.aio import AsyncClient
from client.answers import ClientClosed, CommandFailed, NoAnswer
from protocol.commands import Hello, ListDevices, Ping
from protocol.enums import DeviceState
from protocol.replies import HelloReply, ListDevicesReply, PingReply
from web.metrics import Broker, Figures

ANSWER_SECONDS = 2.0
"""A broker that has not answered by then does not live: it never waits behind work."""

WORKING = (DeviceState.READY, DeviceState.BUSY)


class Pulse(Struct, frozen=True, kw_only=True):
    """Whether the broker answered a ping just now, and how fast; `reason` where not."""

    alive: bool
    seconds: float = 0.0
    epoch: str = ""
    reason: str = ""


async def pulse(client: AsyncClient) -> Pulse:
    """Ask the broker, now."""
    began = time.monotonic()
    try:
        answer = await client.call(Ping(), timeout=ANSWER_SECONDS)
    except (NoAnswer, CommandFailed, ClientClosed) as error:
        return Pulse(alive=False, reason=str(error))
    assert isinstance(answer.reply, PingReply)
    return Pulse(alive=True, seconds=time.monotonic() - began, epoch=answer.reply.epoch)


def app_of(client: AsyncClient) -> Starlette:
    """The application of a client that is connected, or will be once there is a broker."""

    async def live(_: Request) -> Response:
        return _answer(*await liveness(client))

    async def ready(_: Request) -> Response:
        return _answer(*await readiness(client))

    async def metrics(_: Request) -> Response:
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Figures(await look(client)))
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def index(_: Request) -> Response:
        return JSONResponse({"pages": [route.path for route in routes if route.path != "/"]})

    routes = [
        Route("/", index),
        Route("/health/live", live),
        Route("/health/ready", ready),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes)


def _answer(well: bool, content: dict[str, Any]) -> Response:
    return JSONResponse(content, status_code=200 if well else 503, headers={"cache-control": "no-store"})


async def liveness(client: AsyncClient) -> tuple[bool, dict[str, Any]]:
    """Whether the broker answers, and what is said of it."""
    found = await pulse(client)
    if not found.alive:
        return False, {"status": "dead", "reason": found.reason}
    return True, {"status": "alive", "epoch": found.epoch, "ping_ms": round(found.seconds * 1000, 3)}


async def readiness(client: AsyncClient) -> tuple[bool, dict[str, Any]]:
    """Whether a command would be taken now: the broker answers, does not stop, and a device takes work."""
    found = await look(client)
    if found.hello is None or found.devices is None:
        return False, {"status": "dead", "reason": found.reason, "devices": {}}
    states = {device.device_id: device.state.value for device in found.devices.devices}
    if found.draining:
        return False, {"status": "stopping", "devices": states}
    takes = any(device.state in WORKING for device in found.devices.devices)
    return takes, {"status": "ready" if takes else "no device takes work", "devices": states}


async def look(client: AsyncClient) -> Broker:
    """All that the figures are made of, asked for now."""
    found = await pulse(client)
    if not found.alive:
        return Broker(reason=found.reason)
    try:
        hello = (await client.call(Hello(statistics=True), timeout=ANSWER_SECONDS)).reply
        devices = (await client.call(ListDevices(), timeout=ANSWER_SECONDS)).reply
    except (NoAnswer, CommandFailed, ClientClosed) as error:
        return Broker(reason=str(error))
    assert isinstance(hello, HelloReply) and isinstance(devices, ListDevicesReply)
    return Broker(ping_seconds=found.seconds, hello=hello, devices=devices)
