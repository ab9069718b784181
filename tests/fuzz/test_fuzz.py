"""Two hundred thousand hostile inputs; `make fuzz` runs ten million."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from protocol.errors import ErrorCode
from tests.fuzz.core import fuzz
from tests.fuzz.wire import Broker, fuzz_connections, fuzz_frames

CORE, FRAMES, CONNECTIONS = 170_000, 25_000, 5_000
GROWTH_BYTES = 64 << 20


def test_the_core_answers_every_message_once_and_raises_nothing() -> None:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=context) as pool:
        halves = [pool.submit(fuzz, seed, CORE // 2) for seed in (1, 1_000_001)]
        codes: Counter[str] = sum((half.result() for half in halves), Counter())
    assert codes.total() == CORE
    assert {"", ErrorCode.MALFORMED_MESSAGE.value, ErrorCode.INVALID_ARGUMENT.value, ErrorCode.TIMEOUT.value} <= {
        *codes
    }


def test_a_broker_outlives_frames_and_raw_connections_with_flat_memory() -> None:
    with Broker() as broker:
        fuzz_frames(broker, 1, FRAMES // 5)
        before = broker.rss_bytes()
        replies = fuzz_frames(broker, 2, FRAMES * 4 // 5)
        fuzz_connections(broker, 3, CONNECTIONS)
        assert broker.alive
        assert broker.rss_bytes() - before < GROWTH_BYTES
        assert replies > FRAMES // 4
