"""xoscar: calls of one actor in the second process of a pool, over the Unix socket that xoscar lays between them.

In its favour: a stateless actor (others take a lock for each call), commands and replies as bytes, uvloop in the pool's
processes, the Unix socket in place of tcp, and no router: the caller's process is connected to the actor's. Its
`batch` call is not used: a host's commands come one by one.
"""
# mypy: allow-subclassing-any, disable-error-code="import-not-found"

from __future__ import annotations

import uvloop
import xoscar

from bench.peers import echo


class Echo(xoscar.StatelessActor):
    """Any command, one reply."""

    def answer(self, command: bytes) -> bytes:
        return echo.REPLY


async def main() -> None:
    options = echo.options()
    pool = await xoscar.create_actor_pool("127.0.0.1", n_process=1)
    async with pool:
        worker = xoscar.allocate_strategy.ProcessIndex(1)
        actor = await xoscar.create_actor(Echo, address=pool.external_address, allocate_strategy=worker)
        await echo.awaited(actor.answer, options.in_flight[0], echo.WARM_UP_SECONDS)
        rows = [await echo.awaited(actor.answer, count, options.seconds) for count in options.in_flight]
    echo.report("xoscar", rows)


if __name__ == "__main__":
    uvloop.run(main())
