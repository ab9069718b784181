"""What has to hold before anything is served: addresses that may be, folders that are there and ours alone."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from protocol.supervision import Door
from settings.config import ConfigError, Settings
from settings.keys import LOCAL_WORKERS, KeyFolder, Role

LONGEST_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes."""

ROLES = {
    Door.COMMANDS: frozenset({Role.CLIENT, Role.ADMIN}),
    Door.EVENTS: frozenset({Role.CLIENT, Role.ADMIN}),
    Door.WORKERS: frozenset({Role.WORKER}),
}
"""Which roles may connect where."""


def guarded_doors(settings: Settings) -> list[Door]:
    """The endpoints that are served with keys only: those that others can reach, or all on TCP where `curve` is set."""
    addresses = {Door.COMMANDS: settings.commands, Door.EVENTS: settings.events, Door.WORKERS: settings.workers}
    return [
        door
        for door, address in addresses.items()
        if address and (not _is_local(address) or (settings.curve and not address.startswith("ipc://")))
    ]


def refuse_open_addresses(settings: Settings) -> None:
    """Addresses that need keys are served only where there are some for them. Raises ConfigError."""
    folder = KeyFolder(settings.keys)
    for door in guarded_doors(settings):
        _check_keys(door.value, getattr(settings, door.value), ROLES[door], folder)
    if not _is_local(f"tcp://{settings.web}"):
        _check_keys("web", settings.web, frozenset(Role), folder)


def _check_keys(name: str, address: str, roles: frozenset[Role], folder: KeyFolder) -> None:
    wanted = " or ".join(role.value for role in Role if role in roles)
    if not any(key.role in roles for key in folder.admitted()):
        role = min(roles, key=list(Role).index)
        text = "is served with CURVE keys only" if _is_local(address) else "is no loopback address: it needs CURVE keys"
        text = f"{name} is '{address}': that {text}, and {folder.path} admits no {wanted}"
        raise ConfigError(f"{text}; make a key with `vrambroker keys make NAME --role {role.value}`")
    folder.server()


def link_key_file(settings: Settings) -> str:
    """The key of the workers that are started here, made where it is missing; empty where the link has no keys."""
    if Door.WORKERS not in guarded_doors(settings):
        return ""
    folder = KeyFolder(settings.keys)
    path = folder.secret_file(LOCAL_WORKERS)
    if path is None:
        folder.make(LOCAL_WORKERS, Role.WORKER)
        path = folder.secret_file(LOCAL_WORKERS)
    return str(path)


def _is_local(address: str) -> bool:
    """Can nobody on another host reach it? A name that is no number is not trusted, `localhost` apart."""
    if address.startswith("ipc://"):
        return True
    host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


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
