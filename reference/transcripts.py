"""Exchanges with a running broker, as they were printed: what a client's author copies.

A whole `vrambroker serve` with one cpu device is driven over plain ZeroMQ sockets; every frame is kept as it went. Only
the model root's path is written as `/srv/models`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq
from msgspec import Struct

from demo.models import make_models
from worker.devices.base import Raster
from worker.pictures import plain_png

MODELS = ("tiny-sd15", "tiny-sdxl")
SHOWN_ROOT = "/srv/models"
PATIENCE_MS = 120_000
SIDE = 64
PICTURE = plain_png(Raster(width=SIDE, height=SIDE, rgb=bytes(range(0, 192, 3)) * 3 * SIDE))
CONFIGURATION = """
devices = "cpu:1"
vram = "12MiB"
commands = "tcp://127.0.0.1:0"
events = "tcp://127.0.0.1:0"
web = "127.0.0.1:0"
"""


class Frames(Struct, frozen=True, kw_only=True):
    """One message. `sign`: → from the client, ← to it, ⇐ an event, whose topic is there too."""

    sign: str
    payload: Any
    topic: str = ""
    attachments: list[bytes] = []


class Exchange(Struct, frozen=True, kw_only=True):
    """What is shown of one use of the protocol."""

    title: str
    about: str
    frames: list[Frames]


class Wire:
    """Sockets to one broker; `frames` is all that went over them, in the order in which this client saw it."""

    def __init__(self, endpoints: dict[str, str]) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._dealer = self._socket(zmq.DEALER, endpoints["commands"])
        self._endpoints = endpoints
        self.frames: list[Frames] = []

    def _socket(self, kind: int, address: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.rcvtimeo = PATIENCE_MS
        socket.connect(address)
        return socket

    def send(self, command: dict[str, Any], *attachments: bytes) -> None:
        """From the DEALER socket."""
        self.frames.append(Frames(sign="→", payload=command, attachments=list(attachments)))
        self._dealer.send_multipart([json.dumps(command).encode(), *attachments])

    def receive(self) -> dict[str, Any]:
        """What came to it next."""
        payload, *attachments = self._dealer.recv_multipart()
        reply: dict[str, Any] = json.loads(payload)
        self.frames.append(Frames(sign="←", payload=reply, attachments=attachments))
        return reply

    def ask(self, command: dict[str, Any], *attachments: bytes) -> dict[str, Any]:
        """A command, and all that comes back until its final reply."""
        self.send(command, *attachments)
        while (reply := self.receive()).get("state", reply.get("State")) == "progress":
            pass
        return reply

    def request(self, command: dict[str, Any]) -> None:
        """The same over a REQ socket of its own."""
        socket = self._socket(zmq.REQ, self._endpoints["commands"])
        socket.send(json.dumps(command).encode())
        reply = json.loads(socket.recv())
        socket.close()
        self.frames += [Frames(sign="→", payload=command), Frames(sign="←", payload=reply)]

    @contextmanager
    def subscribed(self, topic: str) -> Iterator[Callable[[], dict[str, Any]]]:
        """Events of a topic: a function that waits for the next."""
        socket = self._socket(zmq.SUB, self._endpoints["events"])
        socket.subscribe(topic)
        time.sleep(0.5)  # a subscription takes its way; what is published before it arrived is not heard

        def following() -> dict[str, Any]:
            name, payload = socket.recv_multipart()
            event: dict[str, Any] = json.loads(payload)
            self.frames.append(Frames(sign="⇐", payload=event, topic=name.decode()))
            return event

        try:
            yield following
        finally:
            socket.close()

    def close(self) -> None:
        self._context.destroy(0)

    def taken(self) -> list[Frames]:
        """What went since the last call."""
        taken, self.frames = self.frames, []
        return taken


@contextmanager
def served() -> Iterator[tuple[Wire, str]]:
    """A broker of its own with two small models, and the folder that they are in."""
    with tempfile.TemporaryDirectory(prefix="vrambroker-transcripts-") as folder:
        root = Path(folder) / "models"
        root.mkdir()
        make_models(root, only=MODELS)
        runtime = Path(folder) / "runtime"
        config = Path(folder) / "broker.toml"
        config.write_text(f'runtime = "{runtime}"\nmodels = ["{root}"]\n{CONFIGURATION}')
        command = [sys.executable, "-P", "-m", "cli.main", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wire = Wire(_endpoints(runtime / "endpoints.json", process))
            while wire.ask({"action": "list_devices"})["devices"][0]["state"] != "ready":
                time.sleep(0.1)
            wire.taken()
            yield wire, str(root)
            wire.close()
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def _endpoints(file: Path, process: subprocess.Popen[bytes]) -> dict[str, str]:
    while not file.exists():
        if process.poll() is not None:
            raise SystemExit("serve ended before it took commands")
        time.sleep(0.05)
    found: dict[str, str] = json.loads(file.read_bytes())
    return found


def exchanges() -> Iterator[Exchange]:
    """Every exchange, one after the other with one broker."""
    with served() as (wire, root):
        for title, about, drive in EXCHANGES:
            drive(wire)
            yield Exchange(title=title, about=about, frames=[_generic(one, root) for one in wire.taken()])


def _generic(frames: Frames, root: str) -> Frames:
    text = json.dumps(frames.payload, ensure_ascii=False).replace(root, SHOWN_ROOT)
    return Frames(sign=frames.sign, topic=frames.topic, payload=json.loads(text), attachments=frames.attachments)


def _load(wire: Wire) -> None:
    wire.ask({"action": "load_model", "request_id": "load-1", "model_id": "tiny-sd15", "stream_progress": True})


def _generate(wire: Wire) -> None:
    drawn = {"action": "generate", "model_id": "tiny-sd15", "prompt": "a lighthouse", "steps": 2, "seed": 7}
    wire.ask({**drawn, "request_id": "draw-1", "stream_progress": True})
    named = [{"name": "from", "media_type": "image/png", "bytes": len(PICTURE)}]
    wire.ask({**drawn, "request_id": "draw-2", "strength": 0.5, "attachments": named}, PICTURE)


def _accepted(wire: Wire) -> None:
    command = {"action": "generate", "request_id": "later-1", "model_id": "tiny-sd15", "prompt": "a boat", "steps": 2}
    with wire.subscribed("job.later-1") as following:
        wire.ask({**command, "seed": 7, "wait_for_completion": False})
        while following()["job_state"] != "final":
            pass
    wire.ask({"action": "get_result", "request_id": "fetch-1", "target_request_id": "later-1"})


def _request(wire: Wire) -> None:
    wire.request({"action": "ping", "request_id": "ping-1"})


def _recovery(wire: Wire) -> None:
    wire.ask({"action": "pin_model", "request_id": "pin-1", "model_id": "tiny-sd15"})
    load = {"action": "load_model", "request_id": "load-2", "model_id": "tiny-sdxl", "device_id": "cpu:0"}
    step = wire.ask(load)["error"]["recovery"][0]
    wire.ask({"action": step["action"], "request_id": "mend-1", **step["parameters"]})


def _host(wire: Wire) -> None:
    wire.ask(
        {
            "Action": "unload_model",
            "RequestId": "unload-1",
            "ModelId": "tiny-sdxl",
            "DeviceId": "cpu:0",
            "Priority": 1,
            "ClearCache": True,
        }
    )


EXCHANGES = (
    (
        "A load, with progress",
        "A DEALER socket, no envelope. `stream_progress` asks for what comes before the final reply.",
        _load,
    ),
    (
        "Pictures out and in",
        "A picture is a frame behind the payload, in both directions; the payload names it.",
        _generate,
    ),
    (
        "Accepted, followed, fetched",
        "A SUB socket listens for the command's events before it is sent; `get_result` has the reply for ten minutes, "
        "pictures too, whoever asks.",
        _accepted,
    ),
    (
        "A REQ socket",
        "It puts an empty delimiter before the payload by itself, and gets one back. One question, one answer: no "
        "`stream_progress`.",
        _request,
    ),
    (
        "An error, and what it says would help",
        "The one model on the device is pinned: nothing can leave. `recovery` has commands to send as they are.",
        _recovery,
    ),
    (
        "As the host spells it",
        "PascalCase and ordinals in, the host's class out.",
        _host,
    ),
)
