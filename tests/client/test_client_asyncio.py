"""The asyncio client keeps the promises of the other one."""

from __future__ import annotations

import asyncio

import pytest
import replies
from router import Received, Router

from client import AsyncClient, CommandFailed, NoAnswer
from protocol.codec import action_of
from protocol.commands import Generate, Ping
from protocol.enums import Encoding
from protocol.replies import GenerateReply, ProgressReply


@pytest.mark.parametrize("encoding", list(Encoding))
def test_many_commands_in_flight_are_matched(encoding: Encoding) -> None:
    held: list[Received] = []

    def answer(received: Received) -> None:
        held.append(received)
        if len(held) == 50:
            for each in reversed(held):
                each.send(replies.ping())

    async def use(endpoint: str) -> list[str | None]:
        async with AsyncClient(endpoint, encoding=encoding) as client:
            answered = await asyncio.gather(*(client.ping(request_id=f"r{n}") for n in range(50)))
            return [reply.request_id for reply in answered]

    with Router(answer) as router:
        assert asyncio.run(use(router.endpoint)) == [f"r{n}" for n in range(50)]


def test_progress_and_attachments_come_with_the_answers() -> None:
    def answer(received: Received) -> None:
        received.send(replies.progress("generate", 1, 2))
        received.send(replies.drawing("image-0"), [replies.PNG])

    async def use(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            first, last = [reply async for reply in client.stream(Generate(model_id="m", prompt="p"))]
            assert isinstance(first, ProgressReply) and isinstance(last, GenerateReply)
            answered = await client.generate("m", "p", image=replies.PNG, strength=0.4)
            assert answered.attachments == [replies.PNG]

    with Router(answer) as router:
        asyncio.run(use(router.endpoint))
        assert router.seen[1].attachments == [replies.PNG]


def test_failures_and_silence_are_raised() -> None:
    def answer(received: Received) -> None:
        if action_of(received.command) != "ping":
            received.send(replies.refusal("load_model"))

    async def use(endpoint: str) -> None:
        async with AsyncClient(endpoint) as client:
            with pytest.raises(CommandFailed):
                await client.load("m")
            with pytest.raises(NoAnswer):
                await client.send(Ping(), timeout=0.1)

    with Router(answer) as router:
        asyncio.run(use(router.endpoint))


def test_a_command_in_flight_is_sent_again_to_the_next_broker() -> None:
    def pong(received: Received) -> None:
        received.send(replies.ping())

    async def use(first: Router) -> None:
        async with AsyncClient(first.endpoint) as client:
            pending = asyncio.create_task(client.ping(request_id="kept"))
            while not first.seen:
                await asyncio.sleep(0.01)
            first.close()
            with Router(pong, first.endpoint):
                assert (await pending).request_id == "kept"

    with Router(lambda received: None) as router:
        asyncio.run(use(router))
