"""What has to hold before anything is served: addresses that may be, folders that are there and ours alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from settings.config import ConfigError, Settings

LONGEST_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes."""


def refuse_open_addresses(settings: Settings) -> None:
    """Addresses that others can reach need keys, and this version has none. Raises ConfigError."""
    for name, address in (("commands", settings.commands), ("events", settings.events)):
        host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        local = address.startswith("ipc://") or host in {"localhost", "::1"}
        if not local and not host.startswith("127."):
            raise ConfigError(f"{name} is '{address}': only loopback addresses are served without CURVE keys")


def make_folders(settings: Settings) -> None:
    """The runtime folder, this user's alone, and the data folder. Raises ConfigError."""
    try:
        settings.runtime.mkdir(parents=True, exist_ok=True)
        settings.runtime.chmod(0o700)
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"runtime folder {settings.runtime}: {error.strerror}") from None


@contextlib.contextmanager
def only_one(runtime: Path) -> Iterator[None]:
    """Hold the runtime folder's lock. Raises ConfigError where another broker does."""
    with (runtime / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"runtime folder {runtime} is in use by another broker") from None
        yield


class LinkPlace:
    """The worker link's address: as configured, else a Unix socket in the runtime folder, or in a short one."""

    def __init__(self, settings: Settings) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self.address = settings.workers
        if not self.address:
            path = settings.runtime / "workers.sock"
            if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
                self._folder = tempfile.TemporaryDirectory(prefix="vrb-")
                path = Path(self._folder.name) / "workers.sock"
            self.address = f"ipc://{path}"

    def clear(self) -> None:
        """Remove the short folder."""
        if self._folder is not None:
            self._folder.cleanup()
