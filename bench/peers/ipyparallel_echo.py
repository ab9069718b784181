"""ipyparallel: the load-balanced view over its controller and one engine.

In its favour: the scheduler in C (`pure`, a ZeroMQ proxy) in place of the one in Python, no task database, the function
sent to the engine once and then named.
"""
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import logging
from typing import Any

import ipyparallel

from bench.peers import echo


def main() -> None:
    options = echo.options()
    arguments = ["--scheme=pure", "--nodb"]
    with ipyparallel.Cluster(n=1, controller_args=arguments, log_level=logging.ERROR) as client:
        client[:].execute("from bench.peers.echo import REPLY\ndef answer(command): return REPLY", block=True)
        view = client.load_balanced_view()
        answer = ipyparallel.Reference("answer")

        def submit(command: bytes) -> Any:
            return view.apply_async(answer, command)

        def finish(call: Any) -> bytes:
            return bytes(call.get())

        echo.in_order(submit, finish, options.in_flight[0], echo.WARM_UP_SECONDS)
        rows = [echo.in_order(submit, finish, count, options.seconds) for count in options.in_flight]
    echo.report("ipyparallel", rows)


if __name__ == "__main__":
    main()
