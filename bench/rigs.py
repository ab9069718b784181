"""What the routing benchmark drives: libzmq's C proxy, and the broker's own process, each before one echo worker.

Every part is a process of its own; client and worker links are tcp in both rigs. The workers answer with the same
bytes. The broker's echo worker registers as the catalogue: its lane has no credit of 1, so that as many commands are
with the worker as the client has in flight, which is what the proxy does too.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Self

import msgspec
import zmq

from protocol import link, supervision
from protocol.enums import DeviceKind, ReplyState
from protocol.replies import Limits

REPLY = b'{"request_id":"' + b"0" * 12 + b'","action":"list_models","success":true,"state":"completed"}'.ljust(273)
_spawn = multiprocessing.get_context("spawn")


def _proxy(ready: Connection) -> None:
    context = zmq.Context()
    front, back = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    for socket in (front, back):
        socket.bind("tcp://127.0.0.1:*")
    ready.send((front.getsockopt_string(zmq.LAST_ENDPOINT), back.getsockopt_string(zmq.LAST_ENDPOINT)))
    zmq.proxy(front, back)


def _plain_echo(address: str) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.connect(address)
    while True:
        client, *_ = socket.recv_multipart()
        socket.send_multipart((client, REPLY))


def _catalog_echo(address: str) -> None:
    socket = zmq.Context().socket(zmq.DEALER)
    socket.setsockopt(zmq.IDENTITY, b"catalog/1/echo")
    socket.connect(address)
    socket.send(link.encode(link.Register(worker_id=link.CATALOG_ID, generation=1, pid=1)))
    socket.send(link.encode(link.CatalogEntries(entries=[], complete=True)))
    while True:
        header, *_ = socket.recv_multipart()
        message = link.decode_to_worker(header)
        if isinstance(message, link.Assign):
            update = link.JobUpdate(
                request_id=message.request_id, attempt=message.attempt, state=ReplyState.COMPLETED, success=True
            )
            socket.send_multipart((link.encode(update), REPLY))


class Proxy:
    """`zmq.proxy` between a client and an echo worker."""

    name = "zmq.proxy"

    def __init__(self) -> None:
        here, there = _spawn.Pipe()
        self._processes: list[BaseProcess] = [_spawn.Process(target=_proxy, args=(there,), daemon=True)]
        self._processes[0].start()
        self.address, back = here.recv()
        self._processes.append(_spawn.Process(target=_plain_echo, args=(back,), daemon=True))
        self._processes[1].start()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()


class Broker:
    """`python -m broker` between a client and an echo worker."""

    name = "vrambroker"

    def __init__(self) -> None:
        self._data = tempfile.TemporaryDirectory(prefix="vrambroker-bench-")
        spec = supervision.BrokerSpec(
            commands="tcp://127.0.0.1:*",
            events="tcp://127.0.0.1:*",
            link="tcp://127.0.0.1:*",
            devices=[
                supervision.DeviceSlot(device_id=f"virtual:{index}", kind=DeviceKind.VIRTUAL) for index in range(8)
            ],
            limits=Limits(),
            silence_ms=15_000,
            data=self._data.name,
            version="bench",
        )
        self._broker = subprocess.Popen(
            [sys.executable, "-P", "-m", "broker", msgspec.json.encode(spec).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._broker.stdout is not None
        ready = supervision.from_broker(self._broker.stdout.readline().strip())
        assert isinstance(ready, supervision.Ready)
        self.address = ready.commands
        self._worker = _spawn.Process(target=_catalog_echo, args=(ready.link,), daemon=True)
        self._worker.start()

    @property
    def pid(self) -> int:
        return self._broker.pid

    def close(self) -> None:
        assert self._broker.stdin is not None
        assert self._broker.stdout is not None
        self._broker.stdin.close()
        self._broker.wait()
        self._broker.stdout.close()
        self._worker.kill()
        self._worker.join()
        self._data.cleanup()


class Server:
    """A whole `vrambroker serve` in a folder of its own; `address` takes commands once every device is ready,
    `models` is its model root."""

    def __init__(self, devices: str, make_models: Callable[[Path], None], **settings: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vrambroker-bench-")
        self.runtime = Path(self._folder.name) / "runtime"
        self.models = Path(self._folder.name) / "models"
        self.models.mkdir()
        make_models(self.models)
        environment = {
            **os.environ,
            "VRAMBROKER_RUNTIME": str(self.runtime),
            "VRAMBROKER_MODELS": str(self.models),
            "VRAMBROKER_DEVICES": devices,
            "VRAMBROKER_COMMANDS": "tcp://127.0.0.1:0",
            "VRAMBROKER_EVENTS": "tcp://127.0.0.1:0",
            "VRAMBROKER_WEB": "off",
            **{f"VRAMBROKER_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-P", "-m", "cli.main", "serve"]
        self._process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid
        self.address = ""

    def __enter__(self) -> Self:
        file = self.runtime / "endpoints.json"
        while not file.exists():
            if self._process.poll() is not None:
                raise SystemExit("serve ended before it took commands")
            time.sleep(0.01)
        self.address = msgspec.json.decode(file.read_bytes())["commands"]
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.connect(self.address)
            while True:
                socket.send(b'{"action":"list_devices"}')
                devices = msgspec.json.decode(socket.recv())["devices"]
                if all(device["state"] == "ready" for device in devices):
                    return self
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._folder.cleanup()
