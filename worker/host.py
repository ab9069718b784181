"""The worker process and its surroundings: resident memory, stall time, cgroup. Reads /proc and /sys alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from protocol.telemetry import HostMemory

PSI = Path("/proc/pressure/memory")
MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
SMAPS = Path("/proc/self/smaps_rollup")
CGROUP = Path("/sys/fs/cgroup")
WALK_PATIENCE = 1000
REASONS = {
    "rss_bytes": "this system has no /proc/self/statm",
    "uss_bytes": "this system has no /proc/self/smaps_rollup",
    "psi": "the kernel offers no pressure stall information",
    "cgroup": "no cgroup v2 memory controller is visible",
}


class HostReader:
    """Reads the process and its surroundings.

    The kernel walks every page of the process to tell what is its own, 8 ms for each GB in small pages: that figure is
    read again once a thousand times as long has passed as it took.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._uss: int | None = None
        self._walk_again_at = float("-inf")

    def read(self, ram_tier_bytes: int) -> tuple[HostMemory, dict[str, str]]:
        """The readings, and the reason for each that is absent."""
        host = HostMemory(
            rss_bytes=_rss(),
            uss_bytes=self._own(),
            ram_tier_bytes=ram_tier_bytes,
            psi=stalled_percent(),
            cgroup=_cgroup(),
        )
        missing = {f"host.{name}": reason for name, reason in REASONS.items() if getattr(host, name) is None}
        return host, missing

    def _own(self) -> int | None:
        if self._clock() >= self._walk_again_at:
            began = self._clock()
            self._uss = _uss()
            ended = self._clock()
            self._walk_again_at = ended + WALK_PATIENCE * (ended - began)
        return self._uss


def available_bytes() -> int | None:
    """What the host could give this process now, its control group's limit observed; None where nothing tells."""
    found = []
    try:
        lines = MEMINFO.read_text().splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    group = _cgroup() or {}
    if "max_bytes" in group and "current_bytes" in group:
        found.append(max(0, group["max_bytes"] - group["current_bytes"]))
    return min(found, default=None)


def _rss() -> int | None:
    try:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def _uss() -> int | None:
    """Resident bytes that no other process has: private pages, clean and dirty."""
    try:
        lines = SMAPS.read_text().splitlines()
        return 1024 * sum(
            int(line.split()[1]) for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:"))
        )
    except (OSError, ValueError, IndexError):
        return None


def stalled_percent() -> float | None:
    """The share of the last 10 s in which some task stalled for memory, in percent."""
    try:
        first = PSI.read_text().splitlines()[0]
        return float(dict(part.split("=") for part in first.split()[1:])["avg10"])
    except (OSError, ValueError, IndexError, KeyError):
        return None


def _cgroup() -> dict[str, int] | None:
    """memory.current and, where there is a limit, memory.max, in bytes."""
    found = {}
    for name in ("current", "max"):
        try:
            text = (CGROUP / f"memory.{name}").read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            found[f"{name}_bytes"] = int(text)
    return found or None
