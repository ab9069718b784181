"""`vrambroker serve`: reads the settings, sees that they can be obeyed, and hands over to the supervisor."""

from __future__ import annotations

import sys
from pathlib import Path

from broker.descriptors import raise_limit
from broker.devices import find_devices
from broker.premises import refuse_open_addresses
from broker.runtime import RuntimeFolder
from broker.supervisor import Supervisor
from settings import logs
from settings.config import load
from settings.file import ConfigError
from settings.logs import Logger
from settings.printable import printable
from settings.stops import StopSignals
from settings.suspicions import suspicions

_log = Logger()


def run(config: Path | None, stops: StopSignals) -> int:
    """Serve in the foreground until SIGINT, SIGTERM or SIGHUP. 0 after a clean stop, 2 for settings that cannot be
    obeyed."""
    try:
        settings = load(config)
        refuse_open_addresses(settings)
        devices = find_devices(settings)
        folder = RuntimeFolder(settings)
        with folder.held():
            logs.configure("supervisor")
            for text in suspicions(settings):
                _log.warning("a setting looks like a mistake", setting=text)
            raise_limit()
            return Supervisor(settings, devices, stops, folder).serve()
    except ConfigError as error:
        sys.stderr.write(f"vrambroker: {printable(str(error))}\n")
        return 2
