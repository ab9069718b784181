"""What the processes of a broker hold, looked at every few seconds: memory, descriptors, threads; and its devices."""

from __future__ import annotations

import contextlib
import time
from typing import Any

import psutil
from msgspec import Struct


class Sample(Struct, frozen=True, kw_only=True):
    """A process at a moment of the run. `life` is another for each process that had the role."""

    at: float
    role: str
    life: str
    resident_bytes: int
    descriptors: int
    threads: int


class DeviceSample(Struct, frozen=True, kw_only=True):
    """A device at a moment of the run."""

    at: float
    device_id: str
    used_bytes: int
    queue_depth: int


class Processes:
    """The supervisor of a pid and its children, by their roles."""

    def __init__(self, supervisor: int) -> None:
        self.supervisor = psutil.Process(supervisor)

    def by_role(self) -> dict[str, psutil.Process]:
        """Every process that there is now: `supervisor`, `broker`, `catalog`, `web`, `worker cpu:0` …"""
        found = {"supervisor": self.supervisor}
        with contextlib.suppress(psutil.Error):
            for child in self.supervisor.children():
                with contextlib.suppress(psutil.Error):
                    found[role_of(child.cmdline())] = child
        return found

    def sample(self, start: float) -> list[Sample]:
        """Each of them now."""
        found = []
        for role, process in self.by_role().items():
            with contextlib.suppress(psutil.Error):
                with process.oneshot():
                    sample = Sample(
                        at=time.monotonic() - start,
                        role=role,
                        life=f"{process.pid}/{process.create_time():.0f}",
                        resident_bytes=process.memory_info().rss,
                        descriptors=process.num_fds(),
                        threads=process.num_threads(),
                    )
                found.append(sample)
        return found


def role_of(command: list[str]) -> str:
    """The role that a child's command line shows: the module that it runs, of a worker its device too."""
    module = command[command.index("-m") + 1] if "-m" in command[:-1] else "other"
    if module != "worker":
        return module
    spec = command[-1]
    begin = spec.find('"device_id":"')
    return f"worker {spec[begin + 13 :].partition(chr(34))[0]}" if begin >= 0 else module


def devices_of(reply: dict[str, Any], at: float) -> list[DeviceSample]:
    """The devices of a `list_devices` reply."""
    return [
        DeviceSample(
            at=at,
            device_id=device["device_id"],
            used_bytes=device["used_vram"],
            queue_depth=device["queue_depth"],
        )
        for device in reply.get("devices", [])
    ]
