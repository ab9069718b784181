"""Lines to standard error that never hold up who writes them: one thread writes, and a reader that is gone or stands
still costs lines, which are counted, and nothing else.

Decides what is lost when nobody reads. Knows nothing of what the lines say.
"""

from __future__ import annotations

import io
import os
import select
import threading
import time
from queue import Empty, SimpleQueue

from settings.printable import printable_lines

MOST_LINES = 2000
LONGEST_LINE = 16 << 10
"""Characters; of a longer one the rest is left out."""

CLOSE_SECONDS = 0.5
LOOK_SECONDS = 0.5


class Sink(io.TextIOBase):
    """A text stream over a descriptor. `write` never blocks and never raises, in signal handlers and threads alike."""

    def __init__(self, descriptor: int = 2, most_lines: int = MOST_LINES) -> None:
        self.lost = 0
        self._descriptor = descriptor
        self._most_lines = most_lines
        self._lines: SimpleQueue[str | None] = SimpleQueue()  # its `put` is reentrant
        self._told = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue what a library prints, its control characters spelled out; it is lost where too many wait already."""
        self.put(printable_lines(text))
        return len(text)

    def put(self, text: str) -> None:
        """Queue a text as it is."""
        if self._lines.qsize() >= self._most_lines:
            self.lost += 1
        elif text:
            self._lines.put(text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + "...\n")

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        try:
            return os.isatty(self._descriptor)
        except OSError:
            return False

    def flush(self) -> None:
        """Nothing: what is written is on its way."""

    def finish(self, seconds: float = CLOSE_SECONDS) -> None:
        """Let the thread write what waits, for so long at most. Nothing is written afterwards."""
        self._lines.put(None)
        self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            try:
                text = self._lines.get(timeout=LOOK_SECONDS if self.lost > self._told else None)
            except Empty:
                text = ""
            if text is None:
                return
            if not (self._told_of_losses() and self._written(text)):
                self.lost += bool(text)

    def _told_of_losses(self) -> bool:
        lost = self.lost
        if lost <= self._told:
            return True
        count = lost - self._told
        said = self._written(f'{{"event": "lines of the log were lost", "level": "warning", "lost": {count}}}\n')
        if said:
            self._told = lost
        return said

    def _written(self, text: str) -> bool:
        """Write all of it, however long the reader takes; False where it can never be written."""
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                self._wait_for_reader()
            except OSError:
                return False
        return True

    def _wait_for_reader(self) -> None:
        """The stream is somebody's non-blocking one."""
        try:
            select.select([], [self._descriptor], [], LOOK_SECONDS)
        except (OSError, ValueError):
            time.sleep(LOOK_SECONDS)
