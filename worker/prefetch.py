"""The model that comes next, read into the RAM tier while the device works on another command.

Decides when a thread of its own may read: never while a load builds, since building is not for two threads. A load of
the very model that is being read waits for the part at hand and goes on from there; any other has it given up at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager

from protocol.errors import Fault
from protocol.link import Prefetch
from settings.logs import Logger

LOOK_SECONDS = 0.05

log = Logger()


class Interruption(Exception):
    """A reading ends without fault of its model: nobody who tells of faults may take it for one."""


class Stopped(Interruption):
    """The reading is given up, or has to wait."""


class Full(Interruption):
    """The RAM tier has no room that nobody uses."""


class Watch:
    """What a reading asks: `check` at every chunk, `between` before every part. Both raise Stopped."""

    def __init__(self, check: Callable[[], None], between: Callable[[], None]) -> None:
        self.check = check
        self.between = between


class Prefetcher:
    """One thread, begun with the first wish. `read` brings a model, or raises; what it raises costs nothing but it."""

    def __init__(self, read: Callable[[Prefetch, Watch], None]) -> None:
        self._read = read
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wanted: Prefetch | None = None
        self._reading: Prefetch | None = None
        self._stop = False
        self._loads = 0

    def want(self, wish: Prefetch, begun: Container[str] = ()) -> None:
        """The newest hint. What is being read for another model is given up, unless that model's command has begun."""
        with self._changed:
            self._wanted = wish if wish.model is not None else None
            reading = self._reading
            if reading is not None and reading != wish and _id(reading) not in begun:
                self._stop = True
            if self._wanted is not None and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    @contextmanager
    def held_off(self, model_id: str, check: Callable[[], None]) -> Iterator[None]:
        """A load of this model: nothing is read ahead meanwhile. `check` is called while it waits, and may raise."""
        with self._changed:
            self._loads += 1
            if self._reading is not None and _id(self._reading) != model_id:
                self._stop = True
        try:
            self._wait(check)
            yield
        finally:
            with self._changed:
                self._loads -= 1
                if self._wanted is not None and _id(self._wanted) == model_id:
                    self._wanted = None
                self._changed.notify_all()

    def idle(self) -> bool:
        """Whether nothing is being read, or about to be."""
        with self._changed:
            return self._reading is None and (self._wanted is None or self._loads > 0)

    def _wait(self, check: Callable[[], None]) -> None:
        while True:
            check()
            with self._changed:
                if self._changed.wait_for(lambda: self._reading is None, LOOK_SECONDS):
                    return

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted is not None and not self._loads)
                wish = self._reading = self._wanted
                self._stop = False
            if wish is None:
                continue
            done = self._tried(wish)
            with self._changed:
                self._reading = None
                if done and self._wanted is wish:
                    self._wanted = None
                self._changed.notify_all()

    def _tried(self, wish: Prefetch) -> bool:
        """Read; whether there is no more to do for this wish. A file that is wrong is told by the load, not here."""
        try:
            self._read(wish, Watch(self._check, self._between))
        except Stopped:
            return False
        except Full:
            pass
        except Fault as fault:
            log.info("a model could not be read ahead", model_id=_id(wish), reason=fault.info.message)
        except Exception:
            log.exception("a model could not be read ahead", model_id=_id(wish))
        return True

    def _check(self) -> None:
        if self._stop:
            raise Stopped

    def _between(self) -> None:
        with self._changed:
            if self._stop or self._loads:
                raise Stopped


def _id(wish: Prefetch) -> str:
    return wish.model.model_id if wish.model is not None else ""
