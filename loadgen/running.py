"""A run from its start to its report: the processes that send, what they say on the way, what they counted."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from client.curve import CurveKeys
from loadgen import report as reports
from loadgen.messages import Done, Message, Order, Progress, Ready, Start, read, write
from loadgen.report import Report, Watched
from loadgen.scenario import Scenario
from loadgen.tally import Tally
from loadgen.watching import Watcher
from protocol.ids import short_id

READY_SECONDS = 30.0
HEAD_START_SECONDS = 0.2
LOOK_SECONDS = 0.2
END_SECONDS = 10.0
"""What a process has to hand its figures over after it was told to stop."""


class RunError(RuntimeError):
    """A run that could not begin."""


class Member:
    """One process of a run, and the thread that reads what it says."""

    def __init__(self, order: Order, heard: queue.SimpleQueue[tuple[int, Message | None]]) -> None:
        self.number = order.process
        self.latest: Progress | None = None
        self.done: Done | None = None
        self._heard = heard
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "loadgen"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self.tell(order)
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, message: Message) -> None:
        assert self.process.stdin is not None
        write(self.process.stdin, message)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        while (message := read(self.process.stdout)) is not None:
            self._heard.put((self.number, message))
        self._heard.put((self.number, None))

    def stop(self) -> None:
        """Ask it to end now."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


def run(
    endpoint: str,
    scenario: Scenario,
    *,
    keys: CurveKeys | None = None,
    events: str = "",
    broker: dict[str, Any] | None = None,
    tell: Callable[[list[Progress]], None] | None = None,
) -> Report:
    """Carry a scenario out, and report. An interrupt ends it early, with a report all the same. Raises RunError."""
    heard: queue.SimpleQueue[tuple[int, Message | None]] = queue.SimpleQueue()
    environment = reports.environment() | {"broker": broker or {}}
    watcher = Watcher(events, keys) if events else None
    members, name = [], short_id()
    try:
        for number in range(scenario.processes):
            order = Order(endpoint=endpoint, scenario=scenario, process=number, run=name, keys=keys)
            members.append(Member(order, heard))
        _wait_ready(members, heard)
        start = time.monotonic() + HEAD_START_SECONDS
        started_at = datetime.now(UTC)
        if watcher is not None:
            watcher.begin(start + scenario.warm_up_seconds)
            watcher.start()
        for member in members:
            member.tell(Start(at=start))
        ended = _follow(members, heard, tell)
        seconds = min(time.monotonic() - start, scenario.seconds) - scenario.warm_up_seconds
    finally:
        for member in members:
            member.close()
    watched = watcher.end() if watcher is not None else Watched()
    tally = Tally()
    for member in members:
        if member.done is not None:
            tally.add(member.done.tally)
    return reports.report(
        scenario,
        tally,
        started_at=started_at,
        environment=environment,
        ended=ended,
        watched=watched,
        seconds=max(seconds, 0.001),
    )


def _wait_ready(members: list[Member], heard: queue.SimpleQueue[tuple[int, Message | None]]) -> None:
    waiting = {member.number for member in members}
    until = time.monotonic() + READY_SECONDS
    while waiting:
        try:
            number, message = heard.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise RunError(f"{len(waiting)} of {len(members)} processes did not become ready") from None
        if not isinstance(message, Ready):
            raise RunError(f"process {number} ended before the run began")
        waiting.discard(number)


def _follow(
    members: list[Member],
    heard: queue.SimpleQueue[tuple[int, Message | None]],
    tell: Callable[[list[Progress]], None] | None,
) -> str:
    """Listen to the processes until all are done; how the run ended."""
    ended, until, open_ones = "completed", None, {member.number for member in members}
    while open_ones and (until is None or time.monotonic() < until):
        try:
            try:
                number, message = heard.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                continue
            match message:
                case Progress():
                    members[number].latest = message
                    if tell is not None:
                        tell([member.latest for member in members if member.latest is not None])
                case Done():
                    members[number].done = message
                    open_ones.discard(number)
                case None:
                    ended = ended if members[number].done is not None else f"process {number} died"
                    open_ones.discard(number)
        except KeyboardInterrupt:
            if until is not None:
                break
            ended, until = "interrupted", time.monotonic() + END_SECONDS
            for member in members:
                member.stop()
    return ended
