"""Frames and raw bytes against a real broker process: it lives, its memory stays, a well-behaved client is served."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections import Counter, deque
from typing import Self

import msgspec
import psutil
import zmq

from broker import envelope
from protocol import link, supervision
from protocol.codec import decode_reply, encode_reply
from protocol.enums import DeviceKind, ModelStatus, ModelType, ReplyState
from protocol.errors import Fault
from protocol.replies import Limits
from protocol.telemetry import DeviceIdentity
from tests.fuzz.core import failed
from tests.fuzz.headers import Headers
from tests.fuzz.inputs import Inputs
from tests.fuzz.zmtp import RawPeer

PATIENCE_MS = 20_000
IN_FLIGHT = 64
HELD = 20


class Broker:
    """`python -m broker` on free ports, its data in a folder that goes with it."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vrambroker-fuzz-")
        spec = supervision.BrokerSpec(
            commands="tcp://127.0.0.1:*",
            events="tcp://127.0.0.1:*",
            link="tcp://127.0.0.1:*",
            devices=[supervision.DeviceSlot(device_id="virtual:0", kind=DeviceKind.VIRTUAL)],
            limits=Limits(),
            silence_ms=15_000,
            data=self._folder.name,
            version="fuzz",
        )
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "broker", msgspec.json.encode(spec).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._process.stdout is not None
        ready = supervision.from_broker(self._process.stdout.readline().strip())
        assert isinstance(ready, supervision.Ready)
        self.commands, self.events, self.link = ready.commands, ready.events, ready.link
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()
        self.context.term()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        return int(psutil.Process(self._process.pid).memory_info().rss)

    def connect(self, address: str = "", routing_id: bytes = b"") -> zmq.Socket[bytes]:
        """A DEALER without bounds of its own."""
        one = self.context.socket(zmq.DEALER)
        one.setsockopt(zmq.LINGER, 0)
        one.setsockopt(zmq.SNDHWM, 0)
        one.setsockopt(zmq.RCVHWM, 0)
        if routing_id:
            one.setsockopt(zmq.ROUTING_ID, routing_id)
        one.connect(address or self.commands)
        self._sockets.append(one)
        return one


class Bystander:
    """A client that behaves; every one of its pings must be answered rightly."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._socket = broker.connect()
        self.answers = 0

    def ask(self) -> None:
        self.answers += 1
        self._socket.send(b'{"action":"ping","request_id":"b%d"}' % self.answers)
        assert self._socket.poll(PATIENCE_MS), f"no pong; the broker lives: {self._broker.alive}"
        reply = decode_reply(self._socket.recv_multipart()[-1])
        assert reply.success and reply.request_id == f"b{self.answers}"


class Workers(threading.Thread):
    """The device's worker and the catalogue: registered, alive, and unable to do anything."""

    def __init__(self, broker: Broker) -> None:
        super().__init__(daemon=True)
        self._over = threading.Event()
        self._sockets = [broker.connect(broker.link, name) for name in (b"virtual:0/1/fuzz", b"catalog/1/fuzz")]

    def run(self) -> None:
        identity = DeviceIdentity(device_id="virtual:0", uuid="U", name="", kind=DeviceKind.VIRTUAL, total_vram=1 << 30)
        model = link.ModelRef(
            model_id="m", path="/m.vmodel.json", type=ModelType.SDXL, size_bytes=1, status=ModelStatus.Available
        )
        device, catalogue = self._sockets
        device.send(link.encode(link.Register(worker_id="w", generation=1, pid=1, device=identity, ready=True)))
        catalogue.send(link.encode(link.Register(worker_id=link.CATALOG_ID, generation=1, pid=1)))
        catalogue.send(link.encode(link.CatalogEntries(entries=[model], complete=True)))
        poller = zmq.Poller()
        for one in self._sockets:
            poller.register(one, zmq.POLLIN)
        while not self._over.is_set():
            for one, _ in poller.poll(500) or [(each, 0) for each in self._sockets]:
                self._answer(one)
        for one in self._sockets:
            one.close()

    def _answer(self, one: zmq.Socket[bytes]) -> None:
        while one.poll(0):
            header, *_ = one.recv_multipart()
            assign = link.decode_to_worker(header)
            if isinstance(assign, link.Assign):
                update = link.JobUpdate(
                    request_id=assign.request_id, attempt=assign.attempt, state=ReplyState.FAILED, success=False
                )
                reply = encode_reply(failed(assign.action, assign.echo_id), assign.spelling)
                one.send_multipart([link.encode(update), reply])
        one.send(link.encode(link.Beat(progress_count=0)))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()


def fuzz_frames(broker: Broker, seed: int, count: int) -> Counter[str]:
    """Messages of one DEALER, each answered by one final reply: their codes. Raises AssertionError with the seed."""
    inputs, bystander, peer = Inputs(seed), Bystander(broker), broker.connect()
    codes: Counter[str] = Counter()
    with Workers(broker), peer:
        try:
            for number in range(count):
                peer.send_multipart(inputs.message().frames)
                if number % IN_FLIGHT == 0:
                    bystander.ask()
                    _read(peer, codes, number - 4 * IN_FLIGHT)
            _read(peer, codes, count)
            bystander.ask()
        except (AssertionError, Fault) as error:
            raise AssertionError(f"fuzz_frames({seed}, {count}), the broker lives: {broker.alive}: {error}") from error
        assert not peer.poll(50), f"fuzz_frames({seed}, {count}): a reply too many: {peer.recv_multipart()!r}"
    return codes


def _read(peer: zmq.Socket[bytes], codes: Counter[str], wanted: int) -> None:
    """Take replies: all that are there, and as many as are wanted in all."""
    while codes.total() < wanted or peer.poll(0):
        assert peer.poll(PATIENCE_MS), f"{wanted - codes.total()} of {wanted} are not answered: {codes}"
        _, payload, _ = envelope.split(peer.recv_multipart())
        reply = decode_reply(payload)
        if reply.state is not ReplyState.PROGRESS:
            codes[reply.error.code.value if reply.error is not None else ""] += 1


def fuzz_connections(broker: Broker, seed: int, count: int) -> None:
    """Raw connections to every endpoint, cut off at any point, some held open for a while."""
    inputs, bystander = Inputs(seed), Bystander(broker)
    held: deque[socket.socket] = deque()
    for index in range(count):
        address = inputs.random.choice((broker.commands, broker.commands, broker.link, broker.events))
        with contextlib.suppress(ConnectionError):
            raw = RawPeer(address).socket
            held.append(raw)
            for piece in inputs.connection():
                raw.sendall(piece)
        while len(held) > HELD or (held and inputs.random.random() < 0.5):
            held.popleft().close()
        if index % IN_FLIGHT == 0:
            bystander.ask()
    for raw in held:
        raw.close()
    bystander.ask()


def fuzz_strangers(broker: Broker, seed: int, count: int) -> None:
    """Headers of workers from peers of the link that are none."""
    chance, bystander = random.Random(seed), Bystander(broker)
    headers = Headers(chance)
    with broker.connect(broker.link) as stranger:
        for index in range(count):
            frames = [headers.header(["f1"]), *[b"x"] * chance.randrange(3)]
            with contextlib.suppress(ValueError):
                if isinstance(link.decode_from_worker(frames[0]), link.Register):
                    continue
            stranger.send_multipart(frames)
            while stranger.poll(0):
                assert isinstance(link.decode_to_worker(stranger.recv_multipart()[0]), link.Welcome)
            if index % IN_FLIGHT == 0:
                bystander.ask()
    bystander.ask()
