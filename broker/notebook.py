"""What the core learned, as one small file: written whole or not at all, and never worth an error.

What is in it is the core's business.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from settings.damage import set_aside
from settings.logs import Logger

FILE_NAME = "estimates"
MOST_BYTES = 64 << 20
"""A larger file is none of ours."""

_log = Logger()


class Notebook:
    """The file in the data folder; without a folder nothing is kept."""

    def __init__(self, folder: str) -> None:
        self._path = Path(folder) / FILE_NAME if folder else None

    def read(self) -> bytes:
        """What was kept last; empty where there is nothing to be had."""
        if self._path is None:
            return b""
        try:
            with self._path.open("rb") as stream:
                return stream.read(MOST_BYTES)
        except FileNotFoundError:
            return b""
        except OSError as error:
            _log.warning("estimates cannot be read", error=str(error))
            return b""

    def set_aside(self) -> None:
        """Keep what cannot be understood under another name."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                set_aside(self._path)

    def keep(self, data: bytes) -> None:
        """Replace what was kept before. A disk that takes nothing is logged."""
        if self._path is None:
            return
        scratch = self._path.with_suffix(".part")
        try:
            scratch.write_bytes(data)
            scratch.replace(self._path)
        except OSError as error:
            _log.warning("estimates cannot be kept", error=str(error))
