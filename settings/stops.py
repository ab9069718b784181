"""Signals that end a service: noted at once, from the first moment on, and acted on when its loop looks.

Nothing is done in the handler: a log line there could wait for a lock that the interrupted code holds. Imports next to
nothing, so that the first process of a container hears a signal from its first milliseconds on.
"""

from __future__ import annotations

import os
import signal
import socket
from collections import deque

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""A closed terminal is a stop like the others; under `nohup` it is none."""


class StopSignals:
    """Those that came and were not taken yet, in order. Made once, in the main thread."""

    def __init__(self) -> None:
        self._numbers: deque[int] = deque()
        for number in STOPPING:
            if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._note)

    def take(self) -> int | None:
        """The oldest one; None where there is none."""
        return self._numbers.popleft() if self._numbers else None

    @property
    def waiting(self) -> bool:
        return bool(self._numbers)

    def wakeup(self) -> socket.socket:
        """A socket to be read from that becomes readable with every signal, the end of a child among them."""
        reader, writer = self._ends = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        return reader

    def _note(self, number: int, _: object) -> None:
        self._numbers.append(number)


def ensure_streams() -> None:
    """Standard streams that are closed lead nowhere: else the next file that is opened would take their place."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
