"""Where a broker is: `endpoints.json` in its runtime folder, written by the supervisor, read by clients."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from settings.config import DEFAULT_COMMANDS, DEFAULT_EVENTS, runtime_folder

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
    """Where this user's broker should be: the environment, else the runtime folder's file, else the defaults."""
    is_named = bool(os.environ.get("VRAMBROKER_RUNTIME"))
    written = read(runtime_folder(), is_named=is_named)
    commands = _fixed("VRAMBROKER_COMMANDS") or (written and written.commands) or DEFAULT_COMMANDS
    events = _fixed("VRAMBROKER_EVENTS") or (written and written.events) or DEFAULT_EVENTS
    if written is None:
        return Endpoints(commands=commands, events=events)
    return msgspec.structs.replace(written, commands=commands, events=events)


def _fixed(variable: str) -> str | None:
    """An address that the environment fixes; port 0 or `*` is no address to connect to."""
    address = os.environ.get(variable, "")
    return None if not address or address.endswith((":0", ":*")) else address
