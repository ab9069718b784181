"""A child's tie to its parent: it ends when the parent does, however the parent dies.

Two ties, since each alone has a gap: the kernel's parent-death signal follows the parent's thread, and the end of file
on standard input comes only once every holder of the pipe is gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1


def hold() -> None:
    """End this process with SIGKILL when its parent dies. Called once, before anything is opened."""
    die_with_parent()
    threading.Thread(target=_watch_stdin, name="lifeline", daemon=True).start()


def die_with_parent() -> None:
    """The kernel's tie alone, for a process that reads its standard input itself."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _watch_stdin() -> None:
    """Standard input is a pipe that the parent holds open and never writes to."""
    while True:
        try:
            if not os.read(0, 4096):
                break
        except OSError:
            break
    os.kill(os.getpid(), signal.SIGKILL)
