"""The log's reader: gone, standing still, or there again."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from settings.sink import LONGEST_LINE, Sink
from settings.stops import StopSignals

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def wait_until(condition: object) -> None:
    end = time.monotonic() + 10
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_come_whole_and_in_order(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink(writer)
    for number in range(100):
        sink.write(f"line {number}\n")
    sink.finish(10)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read().splitlines() == [f"line {number}" for number in range(100)]


def test_a_reader_that_is_gone_costs_lines_and_nothing_else(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink(writer)
    os.close(reader)
    for _ in range(5):
        sink.write("nobody reads this\n")
    wait_until(lambda: sink.lost == 5)
    sink.finish(10)
    os.close(writer)


def test_a_reader_that_stands_still_holds_nobody_up_and_is_told_what_it_missed(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink(writer, most_lines=10)
    long = "x" * 1000 + "\n"
    for _ in range(500):
        sink.write(long)
    assert 0 < sink.lost < 500
    lost = sink.lost
    text = bytearray()
    done = threading.Event()

    def read() -> None:
        while sum(map(int, re.findall(rb'"lost": (\d+)}\n', text))) < lost:
            text.extend(os.read(reader, 65536))
        done.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert done.wait(10)
    thread.join()
    assert sum(map(int, re.findall(rb'"lost": (\d+)}\n', text))) == lost
    sink.finish(10)
    os.close(reader)
    os.close(writer)


def test_finish_waits_for_a_reader_only_so_long(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, bytes(4096))
    sink = Sink(writer)
    sink.write("it does not fit\n")
    sink.finish(0.05)
    assert sink._thread.is_alive()
    os.close(reader)
    sink.finish(10)
    os.close(writer)


def test_a_line_of_any_length_and_any_text_is_written(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    sink = Sink(writer)
    sink.write("a lone surrogate \ud83d\n")
    sink.write("y" * (2 * LONGEST_LINE))
    sink.finish(10)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        data = stream.read()
    assert data.startswith(b"a lone surrogate \\ud83d\n") and len(data) < 2 * LONGEST_LINE


def test_signals_are_noted_in_order_and_taken_once() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        stops = StopSignals()
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGTERM)
        assert stops.waiting
        assert [stops.take(), stops.take(), stops.take()] == [signal.SIGHUP, signal.SIGTERM, None]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_under_nohup_a_hangup_is_no_stop() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        StopSignals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("code", ["import sys; sys.stdout.write(str(open('/dev/null').fileno()))"])
def test_closed_streams_lead_nowhere(code: str) -> None:
    """A file that is opened later must not become standard error."""
    script = f"from settings.stops import ensure_streams; ensure_streams(); {code}"
    command = ["sh", "-c", 'exec "$0" -P -c "$1" 2>&-', sys.executable, script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) > 2
