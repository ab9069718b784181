"""Whether the device's memory came back: what is in use while nothing is held, against what was at the start.

Decides nothing about what to do with a leak; the broker replaces the worker.
"""

from __future__ import annotations

from worker.devices.base import Device
from worker.devices.readings import Gauge

TOLERANCE_BYTES = 256 << 20
"""What libraries keep for good once they have run: contexts, workspaces, compiled kernels."""


class LeakMeter:
    """Compares with the first reading. The device thread measures; any thread may read `leaked_bytes`."""

    def __init__(self, device: Device, tolerance_bytes: int = TOLERANCE_BYTES) -> None:
        self._device = device
        self._tolerance_bytes = tolerance_bytes
        self._baseline_bytes = 0
        self.leaked_bytes = 0

    def start(self) -> None:
        """Take the baseline: the device is ready and holds nothing."""
        self._baseline_bytes = _own_bytes(self._device.gauge())

    def measure(self) -> None:
        """Note what is left, while nothing is held; what only waits to be collected is no leak."""
        if self._above() > 0:
            self._device.reclaim()
        above = self._above()
        self.leaked_bytes = above if above > 0 else 0

    def _above(self) -> int:
        above = _own_bytes(self._device.gauge()) - self._baseline_bytes
        return above if above > self._tolerance_bytes else 0


def _own_bytes(gauge: Gauge) -> int:
    """This process's share of the device: what its allocator reserved, where it has one, else what is in use.

    What waits for the next load is none of it.
    """
    return gauge.used if gauge.reserved is None else gauge.reserved - gauge.kept
