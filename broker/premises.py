"""What has to hold before anything is served: addresses that others can reach have keys."""

from __future__ import annotations

import ipaddress

from protocol.supervision import Door
from settings.addresses import OFF
from settings.config import Settings
from settings.file import ConfigError
from settings.keys import LOCAL_WEB, LOCAL_WORKERS, KeyFolder, Role

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
    """Addresses that need keys are served only where there are some for them. Raises ConfigError.

    A folder that others may write is another matter: it admits nobody until it is mended, which the broker sees.
    """
    folder = KeyFolder(settings.keys)
    for door in guarded_doors(settings):
        _check_keys(door.value, getattr(settings, door.value), ROLES[door], folder)
    if settings.web != OFF and not _is_local(f"tcp://{settings.web}"):
        _check_keys("web", settings.web, frozenset(Role), folder)


def _check_keys(name: str, address: str, roles: frozenset[Role], folder: KeyFolder) -> None:
    wanted = " or ".join(role.value for role in Role if role in roles)
    found = folder.read()
    if not found.closed and not any(key.role in roles for key in found.keys):
        role = min(roles, key=list(Role).index)
        text = "is served with CURVE keys only" if _is_local(address) else "is no loopback address: it needs CURVE keys"
        text = f"{name} is '{address}': that {text}, and {folder.path} admits no {wanted}"
        refused = "".join(f"; {problem}" for problem in found.problems)
        raise ConfigError(f"{text}; make a key with `vrambroker keys make NAME --role {role.value}`{refused}")
    folder.server()


def link_key_file(settings: Settings) -> str:
    """The key of the workers that are started here, made where it is missing; empty where the link has no keys."""
    return _own_key(settings, LOCAL_WORKERS, Role.WORKER) if Door.WORKERS in guarded_doors(settings) else ""


def web_key_file(settings: Settings) -> str:
    """The key of the web server, made where it is missing; empty where commands need none."""
    return _own_key(settings, LOCAL_WEB, Role.CLIENT) if Door.COMMANDS in guarded_doors(settings) else ""


def _own_key(settings: Settings, name: str, role: Role) -> str:
    folder = KeyFolder(settings.keys)
    path = folder.secret_file(name)
    if path is None:
        folder.make(name, role)
        path = folder.secret_file(name)
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
