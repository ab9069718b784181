"""Memory, power and utilisation while something runs, sampled in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

SENSOR_EVERY = 20
"""Samples of memory for each reading of the sensors, which cost a call into the driver."""


class Samples:
    """Samples `memory` (bytes) and `sensors` (utilisation 0-1, watts; None where absent) while it is entered."""

    def __init__(
        self,
        memory: Callable[[], int],
        sensors: Callable[[], tuple[float | None, float | None]],
        every_seconds: float,
    ) -> None:
        self.bytes: list[int] = []
        self.utilization: list[float] = []
        self.watts: list[float] = []
        self._memory = memory
        self._sensors = sensors
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="samples", daemon=True)

    def __enter__(self) -> Samples:
        self._take()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def mean_bytes(self) -> float:
        return sum(self.bytes) / len(self.bytes)

    def _run(self) -> None:
        while not self._ended.wait(self._every_seconds):
            self._take()

    def _take(self) -> None:
        self.bytes.append(self._memory())
        if len(self.bytes) % SENSOR_EVERY == 1:
            utilization, watts = self._sensors()
            if utilization is not None:
                self.utilization.append(utilization)
            if watts is not None:
                self.watts.append(watts)
