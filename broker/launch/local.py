"""Children of this process: in groups of their own, so that a terminal's Ctrl-C reaches the supervisor alone.

Each child's standard input is a pipe that only this process holds: its end of file tells the child to die.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

STANDARD_ERROR = 2
NOWHERE = "/"


class LocalProcess:
    """A child process; `stdin` and, where asked for, `stdout` are its line channels."""

    def __init__(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def stdin(self) -> int:
        assert self._popen.stdin is not None
        return self._popen.stdin.fileno()

    @property
    def stdout(self) -> int:
        assert self._popen.stdout is not None
        return self._popen.stdout.fileno()

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def ended(self) -> str | None:
        status = self._popen.poll()
        if status is None:
            return None
        if status < 0:
            return f"ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def write(self, data: bytes) -> None:
        """A line to its standard input; nothing happens where it is gone or does not read."""
        with contextlib.suppress(OSError):
            os.write(self.stdin, data)

    def terminate(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()

    def close(self) -> None:
        """Give the pipes of an ended process back."""
        for stream in (self._popen.stdin, self._popen.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class LocalLauncher:
    """Starts `python -m module argument` beside this process.

    Where somebody typed the command decides nothing: `-P` keeps that folder off the path of modules, and children work
    in the root folder, where no relative name of a library finds anything of anybody's.
    """

    def launch(
        self, module: str, argument: str, *, talks: bool = False, descriptors: tuple[int, ...] = ()
    ) -> LocalProcess:
        """Start a child, which inherits `descriptors`; `talks` gives it a standard output to be read here."""
        popen = subprocess.Popen(
            [sys.executable, "-P", "-m", module, argument],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if talks else STANDARD_ERROR,
            pass_fds=descriptors,
            cwd=NOWHERE,
            process_group=0,
        )
        assert popen.stdin is not None
        os.set_blocking(popen.stdin.fileno(), False)
        return LocalProcess(popen)
