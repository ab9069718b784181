"""Where a broker is: `endpoints.json` in its runtime folder, written by the supervisor, read by clients."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from settings.addresses import is_fixed, reachable
from settings.config import DEFAULT_COMMANDS, DEFAULT_EVENTS, place

FILE_NAME = "endpoints.json"


class Endpoints(Struct, frozen=True, kw_only=True):
    """The addresses in use; `pid` is the supervisor's, `epoch` the broker's."""

    commands: str
    events: str
    web: str | None = None
    pid: int | None = None
    epoch: str = ""


def write(runtime: Path, endpoints: Endpoints) -> None:
    """Replace the file in one step. Raises OSError, with nothing left behind."""
    scratch = runtime / f".{FILE_NAME}.{os.getpid()}"
    try:
        scratch.write_bytes(msgspec.json.format(msgspec.json.encode(endpoints)) + b"\n")
        scratch.replace(runtime / FILE_NAME)
    except OSError:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise


def read(runtime: Path, *, is_named: bool = True) -> Endpoints | None:
    """What the runtime folder says; None where no broker wrote one.

    A folder that nobody named is believed only where it is this user's own: anyone can make one in a shared place.
    """
    try:
        if not is_named and runtime.lstat().st_uid != os.getuid():
            return None
        return msgspec.json.decode((runtime / FILE_NAME).read_bytes(), type=Endpoints)
    except (OSError, ValueError, msgspec.DecodeError):
        return None


def find() -> Endpoints:
    """Where the broker of these settings should be: fixed by the environment, else as its runtime folder says, else
    fixed by the configuration's file, else the defaults. Raises ConfigError."""
    where = place()
    written = read(where.runtime, is_named=where.is_named)
    commands, events = (_fixed(f"VRAMBROKER_{name}") for name in ("COMMANDS", "EVENTS"))
    if written is None:
        return Endpoints(
            commands=commands or _reached(where.commands) or DEFAULT_COMMANDS,
            events=events or _reached(where.events) or DEFAULT_EVENTS,
        )
    return msgspec.structs.replace(
        written,
        commands=commands or reachable(written.commands),
        events=events or reachable(written.events),
    )


def _fixed(variable: str) -> str | None:
    """An address that the environment fixes; port 0 or `*` is no address to connect to."""
    return _reached(os.environ.get(variable, ""))


def _reached(address: str | None) -> str | None:
    return reachable(address) if address and is_fixed(address) else None
