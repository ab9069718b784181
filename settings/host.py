"""What this process and its children can have, of the machine or of what a cgroup leaves of it: memory, cores."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of cgroups of version 2 and 1: the limit, what is used of it, and the key in `memory.stat` of pages of files that
can go at any time."""


def memory_bytes() -> int:
    """The memory that this process and its children can have: the cgroup's limit, else the machine's. 0: unknown."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    return min([machine, *(limit for limit, _ in _cgroup_limits())])


def available_bytes() -> int:
    """What can still be had of it without pushing anything out; 0 where this system does not tell."""
    lines = (_text(Path("/proc/meminfo")) or "").splitlines()
    found = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return max(0, min([*found, *(limit - used for limit, used in _cgroup_limits())])) if found else 0


def cores() -> int:
    """The cores that this process and its children can have: its affinity, or a cgroup's share; at least 1."""
    quotas = [len(os.sched_getaffinity(0))]
    for folder in _folders("cpu"):
        words = (_text(folder / "cpu.max") or "").split()
        if len(words) != 2:
            words = [_text(folder / "cpu.cfs_quota_us") or "", _text(folder / "cpu.cfs_period_us") or ""]
        if all(word.isdigit() and int(word) > 0 for word in words):
            quotas.append(math.ceil(int(words[0]) / int(words[1])))
    return max(1, min(quotas))


def _cgroup_limits() -> list[tuple[int, int]]:
    """Every limit, and what is used of it, on the way from this process's cgroup to the root, of version 2 or 1."""
    found = []
    for folder in _folders("memory"):
        for limit_name, used_name, idle_key in _FILES:
            limit, used = _text(folder / limit_name), _text(folder / used_name)
            if limit is not None and limit.isdigit():
                idle = _figure(folder / "memory.stat", idle_key)
                found.append((int(limit), max(0, int(used) - idle) if used is not None and used.isdigit() else 0))
    return found


def _folders(controller: str) -> set[Path]:
    """The folders that may bound this process, from its cgroup to the root, of version 2 or of this controller's 1."""
    folders = {_CGROUPS, _CGROUPS / controller}
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                own = _CGROUPS / controllers / path.strip("/")
                folders |= {own, *own.parents} if own.is_relative_to(_CGROUPS) else set()
    except (OSError, ValueError):
        pass
    return folders


def _figure(path: Path, key: str) -> int:
    """Of a file with a key and a number on each line; 0 where it is not there."""
    lines = (line.split() for line in (_text(path) or "").splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [key] and len(words) > 1 and words[1].isdigit()), 0)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
