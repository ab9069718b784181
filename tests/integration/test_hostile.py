"""Peers that mean harm, each beside a client that behaves: they get a typed error or are cut off, it gets every answer.

What a bystander measured is logged (`--log-cli-level=INFO`); nothing is asserted of times.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, Self

import msgspec
import psutil
import pytest
import zmq

from protocol import link
from protocol.enums import DeviceKind, ModelStatus, ModelType, ReplyState, Tier
from protocol.replies import Limits
from protocol.telemetry import DeviceIdentity
from tests.fuzz.wire import Broker as BareBroker
from tests.fuzz.zmtp import LONG, MORE, RawPeer, frame, long_header
from tests.integration.conftest import PATIENCE_SECONDS, Broker, Connection, wait_for

MIB = 1 << 20
LIMITS = Limits()
_log = logging.getLogger(__name__)
MORE_ANSWERS = 12
"""What a bystander has to get while the hostile peer is still there."""


class Bystander(threading.Thread):
    """Pings, asks for the status, loads and draws, one command after the other; every answer has to be right.

    `epochs` are those of the pongs: more than one and the broker was restarted.
    """

    def __init__(self, broker: Broker) -> None:
        super().__init__(daemon=True)
        self._address = broker.endpoints["commands"]
        self._over = threading.Event()
        self.answers = 0
        self.epochs: set[str] = set()
        self.wrong: list[Any] = []
        self._seconds: list[float] = []

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            client = Connection(socket)
            socket.connect(self._address)
            while not self._over.is_set() and not self.wrong:
                try:
                    self._ask(client)
                except zmq.Again:
                    self.wrong.append("no answer")

    def _ask(self, client: Connection) -> None:
        request_id = f"bystander-{id(self)}-{self.answers}"
        command: dict[str, Any] = {"request_id": request_id, "model_id": "alpha", "device_id": "virtual:0"}
        match self.answers % 4:
            case 0:
                command = {"request_id": request_id, "action": "ping"}
            case 1:
                command |= {"action": "get_vram_model_status"}
            case 2:
                command |= {"action": "load_model"}
            case _:
                command |= {"action": "generate", "prompt": "a quiet lake", "steps": 1, "seed": 1}
        before = time.monotonic()
        reply = client.ask(command)
        self._seconds.append(time.monotonic() - before)
        if "epoch" in reply:
            self.epochs.add(reply["epoch"])
        if not reply["success"] or reply["request_id"] != request_id or reply["action"] != command["action"]:
            self.wrong.append(reply)
        self.answers += 1

    def goes_on(self, count: int = MORE_ANSWERS) -> None:
        """Wait until it got so many more answers."""
        wanted = self.answers + count
        wait_for(lambda: self.answers >= wanted or self.wrong)
        assert not self.wrong, self.wrong

    def __enter__(self) -> Self:
        self.start()
        self.goes_on(4)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._over.set()
        self.join(2 * PATIENCE_SECONDS)
        p50, most = statistics.median(self._seconds), max(self._seconds)
        _log.info("bystander: %d answers, p50 %.1f ms, max %.1f ms", self.answers, p50 * 1000, most * 1000)
        if kind is None:
            assert not self.wrong, self.wrong
            assert len(self.epochs) == 1, "the broker was restarted"


@pytest.fixture
def bystander(virtual: Broker) -> Iterator[Bystander]:
    """A client that behaves, beside whatever the test does."""
    with Bystander(virtual) as one:
        yield one


def broker_rss(broker: Broker) -> int:
    """Resident bytes of the broker's own process."""
    (process,) = [child for child in psutil.Process(broker.process.pid).children() if "broker" in child.cmdline()]
    return int(process.memory_info().rss)


def error_code(reply: dict[str, Any]) -> str:
    assert reply["success"] is False and reply["state"] == "failed", reply
    assert reply["error"]["message"] == reply["message"] != ""
    return str(reply["error"]["code"])


def in_order(client: Connection, request_ids: list[str]) -> None:
    """Exactly these answers, in this order, and no other."""
    assert [client.receive()[0]["request_id"] for _ in request_ids] == request_ids
    assert not client.socket.poll(50)


# payloads


def test_garbage_is_refused_each_time_with_a_typed_error(virtual: Broker, bystander: Bystander) -> None:
    chance = random.Random(7)
    client = virtual.connect()
    maps = {0x7B, 0xEF, *range(0x80, 0xA0), *range(0xDC, 0xE0)}
    for _ in range(2000):
        payload = chance.randbytes(chance.randrange(1, 300))
        client.send(b"\xc1" + payload if payload[0] in maps else payload)
    codes = Counter(error_code(client.receive()[0]) for _ in range(2000))
    assert codes == {"MALFORMED_MESSAGE": 2000}
    bystander.goes_on()


BOMBS = {
    "json lists": b'{"action":"ping","request_id":"bomb","x":' + b"[" * 400_000 + b"]" * 400_000 + b"}",
    "json objects": b'{"action":"ping","x":' + b'{"a":' * 150_000 + b"1" + b"}" * 150_000 + b"}",
    "json never closed": b'{"action":"ping","x":' + b"[" * 900_000,
    "json in free content": b'{"action":"update_metadata","model_id":"alpha","metadata":{"custom":'
    + b"[" * 63
    + b"]" * 63
    + b"}}",
    "msgpack lists": b"\x82\xa6action\xa4ping\xa1x" + b"\x91" * 900_000 + b"\xc0",
    "msgpack maps": b"\x82\xa6action\xa4ping\xa1x" + b"\x81\xa1a" * 300_000 + b"\xc0",
    "msgpack map keys": b"\x82\xa6action\xa4ping" + b"\x81" * 900_000,
    "msgpack sizes that are not there": b"\xdf\xff\xff\xff\xff\xa6action\xdd\xff\xff\xff\xff",
}


@pytest.mark.parametrize("bomb", [pytest.param(payload, id=name) for name, payload in BOMBS.items()])
def test_a_depth_bomb_is_malformed(virtual: Broker, bystander: Bystander, bomb: bytes) -> None:
    client = virtual.connect()
    for _ in range(20):
        client.send(bomb)
    replies = [client.receive()[0] for _ in range(20)]
    assert {error_code(reply) for reply in replies} == {"MALFORMED_MESSAGE"}
    assert {reply["request_id"] for reply in replies} == {None}
    bystander.goes_on()


def test_a_request_id_of_10_mb_is_not_read(virtual: Broker, bystander: Bystander) -> None:
    client, long = virtual.connect(), "r" * 10_000_000
    for msgpack in (False, True):
        reply = client.ask({"action": "ping", "request_id": long}, msgpack=msgpack)
        assert error_code(reply) == "MALFORMED_MESSAGE"
        assert reply["request_id"] is None
        assert str(LIMITS.payload_bytes) in reply["message"]
    bystander.goes_on()


def test_a_request_id_that_is_too_long_is_refused_and_echoed(virtual: Broker, bystander: Bystander) -> None:
    client, long = virtual.connect(), "r" * 1_000_000
    reply = client.ask({"action": "generate", "model_id": "alpha", "prompt": "x", "request_id": long})
    assert error_code(reply) == "INVALID_ARGUMENT"
    assert reply["request_id"] == long
    assert len(reply["message"]) < 300
    bystander.goes_on()


# connections


def test_unfinished_messages_concern_only_who_sends_them(virtual: Broker, bystander: Bystander) -> None:
    before, sent = broker_rss(virtual), 0
    peers = [RawPeer(virtual.endpoints["commands"]) for _ in range(8)]
    try:
        for peer in peers:
            peer.handshake()
            for _ in range(64):
                peer.socket.sendall(frame(b"u" * 65_536, more=True))
                sent += 65_536
        bystander.goes_on()
        assert broker_rss(virtual) - before < 2 * sent + 32 * MIB
        peers[0].socket.sendall(frame(b""))
        answered = json.loads(_payload(peers[0]))
        assert answered["error"]["code"] == "MALFORMED_MESSAGE"
    finally:
        for peer in peers:
            peer.socket.close()
    bystander.goes_on()


def _payload(peer: RawPeer) -> bytes:
    """The first frame of what comes that is an object; a broken-up envelope may come before it."""
    while True:
        body = peer.read_frame()
        if body[:1] == b"{":
            return body


@pytest.mark.parametrize("size_bytes", [LIMITS.attachments_bytes + LIMITS.payload_bytes + 1, 2**63 - 1, 2**64 - 1])
@pytest.mark.parametrize("flags", [LONG, LONG | MORE])
def test_a_frame_past_every_limit_cuts_its_sender_off(
    virtual: Broker, bystander: Bystander, size_bytes: int, flags: int
) -> None:
    before = broker_rss(virtual)
    with RawPeer(virtual.endpoints["commands"]) as peer:
        peer.handshake()
        peer.socket.sendall(long_header(size_bytes, flags=flags) + b"x" * 100)
        assert peer.is_cut_off()
    bystander.goes_on()
    assert broker_rss(virtual) - before < 32 * MIB


def test_a_second_peer_with_a_routing_id_in_use_takes_it_over_and_gets_its_own_replies_alone(
    virtual: Broker, bystander: Bystander
) -> None:
    with dealer(virtual, b"twin") as first:
        assert first.ask({"action": "ping", "request_id": "first"})["success"]
        with dealer(virtual, b"twin") as second:
            assert second.ask({"action": "ping", "request_id": "second"})["request_id"] == "second"
    bystander.goes_on()
    with dealer(virtual, b"twin") as later:
        assert later.ask({"action": "ping", "request_id": "later"})["success"], "the routing id is not free again"


def test_a_client_that_never_reads_costs_bounded_memory_and_nobody_else(virtual: Broker, bystander: Bystander) -> None:
    with virtual.context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.RCVHWM, 1)
        socket.setsockopt(zmq.RCVBUF, 4096)
        silent = Connection(socket)
        socket.connect(virtual.endpoints["commands"])
        before = broker_rss(virtual)
        for number in range(40_000):
            silent.send({"action": "list_devices", "request_id": f"silent-{number}"})
            if number % 4000 == 0:
                bystander.goes_on(2)
        bystander.goes_on()
        assert broker_rss(virtual) - before < 160 * MIB
    bystander.goes_on()


# load


def test_a_flood_is_answered_in_order_while_others_are_served(virtual: Broker, bystander: Bystander) -> None:
    flood = virtual.connect()
    ids = [f"flood-{number}" for number in range(20_000)]
    before = bystander.answers
    sender = threading.Thread(
        target=lambda: [flood.socket.send(b'{"action":"ping","request_id":"%b"}' % name.encode()) for name in ids]
    )
    sender.start()
    sender.join()
    in_order(flood, ids)
    _log.info("bystander: %d answers beside a flood of %d", bystander.answers - before, len(ids))
    assert bystander.answers > before
    bystander.goes_on()


def test_a_flood_of_work_fills_its_own_queue_and_no_one_elses(virtual: Broker, bystander: Bystander) -> None:
    flood, count = virtual.connect(), LIMITS.queued_per_client + 500
    work = {"action": "generate", "model_id": "alpha", "device_id": "virtual:0", "prompt": "x", "steps": 1}
    for number in range(count):
        flood.send({**work, "request_id": f"work-{number}"})
    refused = set()
    for _ in range(count):
        reply = flood.receive()[0]
        if not reply["success"]:
            assert error_code(reply) == "QUEUE_FULL" and reply["error"]["retry_after_ms"] > 0, reply
            assert reply["error"]["retryable"] and str(LIMITS.queued_per_client) in reply["message"]
            refused.add(reply["request_id"])
        if len(refused) == 1:
            bystander.goes_on(4)
            refused.add("")
    assert 1 < len(refused) < count
    assert not flood.socket.poll(50)
    bystander.goes_on()


# the worker link


@contextlib.contextmanager
def dealer(broker: Broker, routing_id: bytes = b"", address: str = "") -> Iterator[Connection]:
    """A client that ends with the block; `routing_id` is what it calls itself."""
    with broker.context.socket(zmq.DEALER) as socket:
        client = Connection(socket)
        if routing_id:
            socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.connect(address or broker.endpoints["commands"])
        yield client


def _headers(generation: int, target: str) -> list[bytes]:
    """What a worker might say, of no use from anyone else."""
    kind = DeviceKind.VIRTUAL
    identity = DeviceIdentity(device_id="virtual:1", uuid="U", name="", kind=kind, total_vram=1)
    absent = DeviceIdentity(device_id="cuda:77", uuid="V", name="", kind=kind, total_vram=1)
    messages = [
        link.Register(worker_id="x", generation=generation - 1, pid=1, device=identity, ready=True),
        link.Register(worker_id="x", generation=99, pid=1, device=absent, ready=True),
        link.Beat(progress_count=99),
        link.Report(ready=True, models=[], leaked_bytes=1 << 40),
        link.ModelChanged(model_id="alpha", tier=Tier.DISK, from_tier=Tier.VRAM, bytes=0, reason="stolen"),
        link.CatalogEntries(entries=[], complete=True),
        link.JobUpdate(request_id=target, attempt=1, state=ReplyState.COMPLETED, success=True),
    ]
    bomb = msgspec.msgpack.encode({"t": "beat", "progress_count": 1, "x": 0})[:-1] + b"\x91" * 5000 + b"\xc0"
    return [*map(link.encode, messages), b"", b"\xc1", b"\x91" * 5000, bomb]


@pytest.mark.parametrize("endpoint", ["commands", "link"])
def test_who_claims_to_be_a_worker_changes_nothing(virtual: Broker, bystander: Bystander, endpoint: str) -> None:
    client, device, target = virtual.connect(), virtual.devices()["virtual:1"], f"long-{endpoint}"
    assert client.ask({"action": "load_model", "model_id": "beta", "device_id": "virtual:1"})["success"]
    generate = {"action": "generate", "model_id": "beta", "device_id": "virtual:1", "prompt": "x", "steps": 100}
    client.send({**generate, "request_id": target})
    address = "" if endpoint == "commands" else f"ipc://{virtual.runtime}/workers.sock"
    with dealer(virtual, f"virtual:1/{device['generation']}/0000".encode(), address) as stranger:
        for header in _headers(device["generation"], target):
            stranger.send(header, b'{"success":true}')
        if endpoint == "commands":
            for _ in _headers(device["generation"], target):
                assert error_code(stranger.receive()[0]) in ("MALFORMED_MESSAGE", "MISSING_PARAMETER")
        reply = client.receive()[0]
        assert (reply["request_id"], reply["success"], reply["steps_done"]) == (target, True, 100)
        bystander.goes_on()
    after = virtual.devices()["virtual:1"]
    kept = ("pid", "generation", "restarts", "total_vram")
    assert [after[key] for key in kept] == [device[key] for key in kept]
    assert [model["model_id"] for model in after["models"]] == ["beta"]
    assert client.ask({"action": "get_model_info", "model_id": "alpha"})["success"], "the index was replaced"


def test_answers_of_stale_attempts_reach_nobody() -> None:
    with BareBroker() as broker, broker.connect() as client, broker.connect(broker.link, b"virtual:0/1/x") as worker:
        kind = DeviceKind.VIRTUAL
        identity = DeviceIdentity(device_id="virtual:0", uuid="U", name="", kind=kind, total_vram=1 << 30)
        worker.send(link.encode(link.Register(worker_id="x", generation=1, pid=1, device=identity, ready=True)))
        with broker.connect(broker.link, b"catalog/1/x") as catalogue:
            catalogue.send(link.encode(link.Register(worker_id=link.CATALOG_ID, generation=1, pid=1)))
            known = link.ModelRef(
                model_id="m",
                path="/m.vmodel.json",
                type=ModelType.SDXL,
                size_bytes=1,
                status=ModelStatus.Available,
            )
            catalogue.send(link.encode(link.CatalogEntries(entries=[known], complete=True)))
            for number in range(50):
                _answer_wrongly_then_rightly(client, worker, f"r{number}")
            assert not client.poll(50)


def _answer_wrongly_then_rightly(client: zmq.Socket[bytes], worker: zmq.Socket[bytes], request_id: str) -> None:
    client.send_json({"action": "generate", "model_id": "m", "prompt": "x", "request_id": request_id})
    assign: Any = None
    while not isinstance(assign, link.Assign):
        assert worker.poll(PATIENCE_SECONDS * 1000)
        assign = link.decode_to_worker(worker.recv_multipart()[0])
    wrong = [(assign.attempt - 1, request_id), (assign.attempt + 1, request_id), (assign.attempt, "nobody"), (0, "r0")]
    for attempt, name in wrong:
        stale = link.JobUpdate(request_id=name, attempt=attempt, state=ReplyState.COMPLETED, success=True)
        worker.send_multipart([link.encode(stale), b'{"stale":true}'])
    right = link.JobUpdate(request_id=request_id, attempt=assign.attempt, state=ReplyState.COMPLETED, success=True)
    worker.send_multipart([link.encode(right), b'{"right":"%b"}' % request_id.encode()])
    assert client.poll(PATIENCE_SECONDS * 1000)
    assert client.recv_json() == {"right": request_id}


# events


def test_a_flood_of_subscriptions_holds_nobody_up(virtual: Broker, bystander: Bystander) -> None:
    with virtual.context.socket(zmq.SUB) as many:
        many.setsockopt(zmq.RCVHWM, 1)
        many.setsockopt(zmq.SNDHWM, 0)
        many.connect(virtual.endpoints["events"])
        for number in range(20_000):
            many.subscribe(f"telemetry.no-such-device-{number}")
        for _ in range(200):
            many.subscribe("")
        bystander.goes_on()
    bystander.goes_on()


@pytest.mark.parametrize("size_bytes", [65_537, 1 << 40])
def test_a_subscription_of_no_sensible_length_cuts_its_sender_off(
    virtual: Broker, bystander: Bystander, size_bytes: int
) -> None:
    with RawPeer(virtual.endpoints["events"]) as peer:
        peer.handshake(socket_type=b"SUB")
        peer.socket.sendall(long_header(size_bytes) + b"\x01")
        assert peer.is_cut_off()
    bystander.goes_on()
