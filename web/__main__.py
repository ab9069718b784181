"""`python -m web SPEC`: the web server's process, until its parent ends it."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

import uvicorn

from client.aio import AsyncClient
from client.curve import CurveKeys
from settings import lifeline, logs
from web.app import app_of
from web.spec import WebSpec, decode

GRACE_SECONDS = 1


async def serve(spec: WebSpec) -> None:
    """Answer until SIGTERM."""
    keys = CurveKeys.read(Path(spec.key_file)) if spec.key_file else None
    async with AsyncClient(spec.commands, curve=keys) as client:
        config = uvicorn.Config(
            app_of(client), log_config=None, access_log=False, timeout_graceful_shutdown=GRACE_SECONDS, lifespan="off"
        )
        await uvicorn.Server(config).serve(sockets=[socket.socket(fileno=spec.listener)])


def main() -> None:
    lifeline.hold()
    logs.configure("web")
    asyncio.run(serve(decode(sys.argv[1])))


if __name__ == "__main__":
    main()
