"""`python -m loadgen`: one process of a run. Its orders come on standard input, how it goes is told on standard output.

Messages are MessagePack behind their length in four bytes; `loadgen.running` is at the other end.
"""

from __future__ import annotations

import signal
import sys
import time

from loadgen.messages import Done, Order, Progress, Ready, Start, read, write
from loadgen.sending import Sender

TELL_SECONDS = 0.5


def main() -> None:
    """Wait for the order, say ready, wait for the start, run, tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, target = sys.stdin.buffer, sys.stdout.buffer
    order = read(source)
    if not isinstance(order, Order):
        return
    told_at = 0.0

    def tell(progress: Progress) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_SECONDS:
            told_at = time.monotonic()
            write(target, progress)

    sender = Sender(order.endpoint, order.scenario, run=order.run, process=order.process, keys=order.keys, tell=tell)
    signal.signal(signal.SIGTERM, lambda *_: sender.stop())
    write(target, Ready())
    start = read(source)
    if isinstance(start, Start):
        write(target, Done(tally=sender.run(start.at).pack()))


if __name__ == "__main__":
    main()
