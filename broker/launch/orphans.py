"""What the first process of a container owes to children that are not its own: their end has to be noted."""

from __future__ import annotations

import os
from collections.abc import Container


def reap(own: Container[int]) -> None:
    """Take note of every adopted child that has ended; those in `own` are left to who started them."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in own:
            return
        os.waitpid(ended.si_pid, os.WNOHANG)
