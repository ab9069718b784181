"""The broker process: told everything by its one argument, tied to the supervisor by its standard streams."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import zmq

from broker.core.core import Core
from broker.core.finals import MemoryStore
from broker.journal import Journal
from broker.loop import Loop
from broker.notebook import Notebook
from broker.sockets import Sockets
from protocol.ids import uuid7
from protocol.supervision import BrokerSpec, Ready, line
from settings import lifeline
from settings.file import ConfigError
from settings.logs import Logger, configure
from settings.printable import printable

ADDRESS_IN_USE = 3
"""Exit status where an endpoint cannot be bound."""

UNUSABLE_KEYS = 2
"""Exit status where the keys that guard the endpoints cannot be read any more."""


def main() -> int:
    """Serve until told to stop; the supervisor sends no signal but SIGKILL."""
    lifeline.die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    spec = msgspec.json.decode(sys.argv[1], type=BrokerSpec)
    configure("broker")
    epoch = uuid7()
    try:
        sockets = Sockets(spec)
    except ConfigError as error:
        sys.stderr.write(f"vrambroker: {printable(str(error))}\n")
        return UNUSABLE_KEYS
    except zmq.ZMQError as error:
        sys.stderr.write(f"vrambroker: cannot bind {spec.commands}, {spec.events}: {error}\n")
        return ADDRESS_IN_USE
    spec = msgspec.structs.replace(spec, events=sockets.publisher.address)
    journal = _journal(spec)
    store = journal or MemoryStore()
    notebook = Notebook(spec.data)
    core = Core(
        spec,
        epoch,
        clock=time.monotonic,
        wall=lambda: datetime.now(UTC),
        new_id=uuid7,
        store=store,
        remembered=notebook.read(),
    )
    if core.forgot:
        notebook.set_aside()
    ready = Ready(
        commands=sockets.commands.getsockopt_string(zmq.LAST_ENDPOINT),
        events=sockets.publisher.address,
        link=sockets.link.getsockopt_string(zmq.LAST_ENDPOINT),
        epoch=epoch,
    )
    os.write(1, line(ready))
    os.set_blocking(1, False)
    _spare_the_collector()
    Loop(core, sockets, journal, notebook, lines_in=0, lines_out=1).run()
    sockets.close()
    if journal is not None:
        journal.close()
    return 0


def _journal(spec: BrokerSpec) -> Journal | None:
    """The journal in the data folder; None where nothing is to outlive the process, or nothing can."""
    if not spec.data:
        return None
    try:
        return Journal(Path(spec.data) / "journal", clock=time.monotonic, keep_seconds=spec.results_seconds)
    except OSError as error:
        text = "the journal cannot be used: stored replies and accepted commands will not outlive this broker"
        Logger().error(text, reason=str(error))
        return None


def _spare_the_collector() -> None:
    """What is here stays, and a command leaves no cycles: look for garbage seldom."""
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


if __name__ == "__main__":
    sys.exit(main())
