"""Replies to clients that read slowly or not at all, over a real ROUTER."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from broker.outbox import Bounds, Outbox

Socket = zmq.Socket[bytes]
BLOCK = b"x" * (1 << 20)


class Stand:
    def __init__(self, context: zmq.Context[Socket]) -> None:
        self.context = context
        self.router = context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.router.setsockopt(zmq.SNDHWM, 2)
        self.router.setsockopt(zmq.SNDBUF, 1 << 16)
        self.router.bind("tcp://127.0.0.1:*")
        self.gone: list[bytes] = []
        self.full: list[int] = []
        self.outbox = self.new_outbox(Bounds())
        self.clients: list[Socket] = []

    def new_outbox(self, bounds: Bounds) -> Outbox:
        return Outbox(self.router, gone=self.gone.append, full=lambda _, size: self.full.append(size), bounds=bounds)

    def client(self, name: bytes) -> Socket:
        socket = self.context.socket(zmq.DEALER)
        socket.setsockopt(zmq.IDENTITY, name)
        socket.setsockopt(zmq.RCVHWM, 2)
        socket.setsockopt(zmq.RCVBUF, 1 << 16)
        socket.connect(self.router.getsockopt_string(zmq.LAST_ENDPOINT))
        socket.send(b"hello")
        assert self.router.poll(5000)
        self.router.recv_multipart()
        self.clients.append(socket)
        return socket


@pytest.fixture
def stand() -> Iterator[Stand]:
    context: zmq.Context[Socket] = zmq.Context()
    stand = Stand(context)
    yield stand
    for socket in (*stand.clients, stand.router):
        socket.close(linger=0)
    context.term()


def test_a_client_that_does_not_read_delays_nobody(stand: Stand) -> None:
    stand.client(b"deaf")
    reader = stand.client(b"reader")
    for _ in range(40):
        stand.outbox.send(b"deaf", (BLOCK,))
    stand.outbox.send(b"reader", (b"pong",))
    assert reader.poll(5000)
    assert reader.recv() == b"pong"
    assert stand.outbox.retry_seconds is not None


def test_what_waits_for_a_slow_reader_comes_in_order(stand: Stand) -> None:
    slow = stand.client(b"slow")
    for number in range(30):
        stand.outbox.send(b"slow", (str(number).encode(), BLOCK))
    got = []
    while len(got) < 30:
        stand.outbox.retry()
        if slow.poll(20):
            got.append(int(slow.recv_multipart()[0]))
    assert got == list(range(30))
    assert stand.outbox.retry_seconds is None


def test_beyond_the_bound_replies_are_dropped(stand: Stand) -> None:
    stand.outbox = stand.new_outbox(Bounds(peer_bytes=4 * len(BLOCK)))
    slow = stand.client(b"slow")
    for number in range(200):
        stand.outbox.send(b"slow", (str(number).encode(), BLOCK))
    got = []
    while slow.poll(300) or stand.outbox.retry_seconds is not None:
        if slow.poll(0):
            got.append(int(slow.recv_multipart()[0]))
        stand.outbox.retry()
    assert got == sorted(got)
    assert 3 <= len(got) < 200
    assert len(got) + len(stand.full) == 200


def test_what_libzmq_holds_for_one_who_does_not_read_counts_in_bytes(stand: Stand) -> None:
    stand.router.setsockopt(zmq.SNDHWM, 10_000)
    stand.outbox = stand.new_outbox(Bounds(peer_bytes=8 * len(BLOCK)))
    stand.client(b"deaf")
    for _ in range(100):
        stand.outbox.send(b"deaf", (BLOCK,))
    assert stand.outbox._bytes[b"deaf"] <= 17 * len(BLOCK)
    assert len(stand.full) >= 70


def test_there_is_a_bound_for_all_together(stand: Stand) -> None:
    stand.outbox = stand.new_outbox(Bounds(total_bytes=6 * len(BLOCK)))
    names = (b"a", b"b", b"c", b"d")
    for name in names:
        stand.client(name)
    for _ in range(20):
        for name in names:
            stand.outbox.send(name, (BLOCK,))
    assert stand.full and stand.outbox._total <= 40 * len(BLOCK)


def test_a_client_that_is_gone_leaves_nothing_behind(stand: Stand) -> None:
    stand.outbox.send(b"nobody", (b"pong",))
    assert stand.gone == [b"nobody"]
    assert stand.outbox.retry_seconds is None
    gone = stand.client(b"gone")
    for _ in range(40):
        stand.outbox.send(b"gone", (BLOCK,))
    gone.close(linger=0)
    stand.clients.remove(gone)
    for _ in range(500):
        stand.outbox.retry()
        if stand.outbox.retry_seconds is None:
            return
        stand.router.poll(20)
    raise AssertionError("replies to a client that is gone still wait")
