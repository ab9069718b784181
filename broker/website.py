"""The web server's process: started once the broker takes commands, and again when it died; never anybody's trouble.

The broker knows nothing of it. Where its address is taken, there is none, and the log says so.
"""

from __future__ import annotations

import random
import socket

from broker.launch.child import Child
from broker.launch.listeners import listen
from broker.launch.local import LocalLauncher
from broker.premises import web_key_file
from broker.restarts import RestartPolicy
from settings.addresses import OFF, reachable
from settings.config import Settings
from settings.file import ConfigError
from settings.logs import Logger
from web.spec import WebSpec, encode

NAME = "web"
LAUNCH_AGAIN_SECONDS = 5.0

_log = Logger()


class WebServer:
    """One child of the supervisor, and the socket that outlives it."""

    def __init__(self, settings: Settings, launcher: LocalLauncher) -> None:
        self._settings, self._launcher = settings, launcher
        self.child = Child(NAME, "web", RestartPolicy(random.random, settings.restarts, never_gives_up=True))
        self._listener: socket.socket | None = None
        self._commands = ""

    def listen(self) -> None:
        """Have the address, or say that it cannot be had."""
        self.child.start_at = None
        if self._settings.web == OFF:
            return
        try:
            self._listener = listen(f"tcp://{self._settings.web}")
        except OSError as error:
            _log.warning("no web server: its address cannot be had", web=self._settings.web, reason=error.strerror)
            return
        if self._listener is None:
            _log.warning("no web server: its address has a host name, and needs a number", web=self._settings.web)
            return
        self.child.start_at = 0.0

    @property
    def url(self) -> str | None:
        """Where it is; None where there is none."""
        if self._listener is None:
            return None
        host, port = self._listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def point_at(self, commands: str) -> None:
        """The broker takes commands at this address."""
        self._commands = reachable(commands)

    def mind(self, now: float) -> None:
        """Start it where it is due; take note of its end."""
        child = self.child
        if child.process is not None:
            reason = child.process.ended()
            if reason is not None:
                wait = child.bury(reason, now)
                if self._commands:
                    _log.warning("a process is gone", child=NAME, reason=child.last_words, restart_in=wait)
        elif self._listener is not None and self._commands and child.start_at is not None and child.start_at <= now:
            self._start(now)

    def _start(self, now: float) -> None:
        assert self._listener is not None
        try:
            spec = WebSpec(
                commands=self._commands, listener=self._listener.fileno(), key_file=web_key_file(self._settings)
            )
            process = self._launcher.launch(self.child.module, encode(spec), descriptors=(self._listener.fileno(),))
        except (OSError, ConfigError) as error:
            _log.error("a process cannot be started", child=NAME, reason=str(error))
            self.child.start_at = now + LAUNCH_AGAIN_SECONDS
            return
        self.child.begin(process, now)
        # It is told of no failure to serve: what dies is started again, with the same patience every time.
        self.child.ready = self.child.served = True

    def dismiss(self) -> None:
        """Tell it to end; it is not started again."""
        self._commands = ""
        if self.child.process is not None:
            self.child.process.terminate()
