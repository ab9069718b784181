"""How much memory this process and its children can have: the machine's, or what a cgroup leaves of it."""

from __future__ import annotations

import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def memory_bytes() -> int:
    """The memory that this process and its children can have: the cgroup's limit, else the machine's. 0: unknown."""
    try:
        machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0
    return min([machine, *_cgroup_limits()])


def _cgroup_limits() -> list[int]:
    """Every limit on the way from this process's cgroup to the root, of version 2 or 1."""
    folders = {_CGROUPS, _CGROUPS / "memory"}
    try:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "memory"):
                own = _CGROUPS / controllers / path.strip("/")
                folders |= {own, *own.parents} if own.is_relative_to(_CGROUPS) else set()
    except (OSError, ValueError):
        pass
    found = []
    for folder in folders:
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                text = (folder / name).read_text().strip()
            except OSError:
                continue
            if text.isdigit():
                found.append(int(text))
    return found
