"""Pictures as files beneath the output root: whole at once, under our own names, or refused.

Decides what a full, read-only or missing folder means to a client. Knows nothing of pictures.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from protocol.errors import ErrorCode, Fault, Recovery

PROBE_BYTES = 64 << 10
"""What must fit before a picture is drawn for the folder."""


class OutputFolder:
    """One folder; made where it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def check(self) -> None:
        """Whether a file can be written now. Raises Fault INFERENCE_FAILED, retryable, with the system's reason."""
        self.write(bytes(PROBE_BYTES), "probe").unlink(missing_ok=True)

    def write(self, data: bytes, suffix: str) -> Path:
        """A new file. Raises Fault as `check`; nothing is left behind then."""
        path = self._folder / f"{secrets.token_hex(16)}.{suffix}"
        scratch = path.with_suffix(".part")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch.write_bytes(data)
            scratch.replace(path)
        except OSError as error:
            with suppress(OSError):
                scratch.unlink(missing_ok=True)
            raise _unwritable(error) from None
        return path


def _unwritable(error: OSError) -> Fault:
    reason = error.strerror or os.strerror(error.errno or 0)
    recovery = [
        Recovery(action="generate", description="take them as attachments", parameters={"delivery": "attachment"})
    ]
    return Fault(
        ErrorCode.INFERENCE_FAILED,
        f"delivery is path: the output folder takes no file: {reason}",
        retryable=True,
        details={"field": "delivery", "reason": reason},
        recovery=recovery,
    )
