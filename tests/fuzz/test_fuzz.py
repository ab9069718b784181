"""Two hundred thousand hostile inputs; `make fuzz` runs ten million."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

import pytest

from protocol.errors import ErrorCode
from tests.fuzz.core import fuzz, fuzz_link
from tests.fuzz.wire import Broker, fuzz_connections, fuzz_frames, fuzz_strangers
from tests.fuzz.zmtp import GREETING, RawPeer, ready

CORE, LINK, FRAMES, STRANGERS, CONNECTIONS = 130_000, 40_000, 20_000, 5_000, 5_000
SEEDS = (1, 1_000_001)
GROWTH_BYTES = 64 << 20
SHOWN = {"", *(code.value for code in (ErrorCode.MALFORMED_MESSAGE, ErrorCode.INVALID_ARGUMENT, ErrorCode.CANCELLED))}


@pytest.mark.timeout(300)
def test_the_core_answers_every_message_once_whatever_clients_and_workers_say() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        clients = [pool.submit(fuzz, seed, CORE // 2) for seed in SEEDS]
        workers = [pool.submit(fuzz_link, seed, LINK // 2) for seed in SEEDS]
        codes: Counter[str] = sum((half.result() for half in clients), Counter())
        assert all(half.result() > LINK // 4 for half in workers)
    assert codes.total() == CORE
    assert {*codes} >= SHOWN


@pytest.mark.timeout(300)
def test_a_broker_outlives_frames_headers_and_raw_connections_with_flat_memory() -> None:
    with Broker() as broker:
        fuzz_frames(broker, 1, FRAMES // 5)
        before = broker.rss_bytes()
        assert fuzz_frames(broker, 2, FRAMES * 4 // 5).total() == FRAMES * 4 // 5
        fuzz_strangers(broker, 3, STRANGERS)
        fuzz_connections(broker, 4, CONNECTIONS)
        assert broker.alive
        assert broker.rss_bytes() - before < GROWTH_BYTES


def test_a_handshake_broken_off_or_bent_at_any_byte_is_its_own_peers_trouble() -> None:
    handshake = GREETING + ready(routing_id=b"me")
    with Broker() as broker:
        for address in (broker.commands, broker.events, broker.link):
            for at in range(len(handshake)):
                with RawPeer(address) as short, RawPeer(address) as bent:
                    short.socket.sendall(handshake[:at])
                    bent.socket.sendall(handshake[:at] + bytes([handshake[at] ^ 0xFF]) + handshake[at + 1 :])
        fuzz_connections(broker, 5, 1)
        assert broker.alive
