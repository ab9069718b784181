"""Standard output and error as they really are: closed ones lead nowhere, narrow ones show what they can.

JSON is UTF-8 whatever the locale says.
"""

from __future__ import annotations

import io
import os
import sys

from settings.printable import printable_json


def prepare() -> None:
    """Make the streams such that no text can break them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - for the process's life
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def write_json(document: bytes) -> None:
    """One JSON document and the end of its line; what a terminal would obey stands in it as escapes."""
    sys.stdout.flush()
    sys.stdout.buffer.write(printable_json(document) + b"\n")
    sys.stdout.buffer.flush()
