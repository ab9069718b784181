"""What a client promises about the commands in flight, on a real socket."""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec
import pytest
import replies
from router import Received, Router

from client import Client, ClientClosed, CommandFailed, NoAnswer, pictures
from client.answers import UnexpectedReply
from protocol.codec import action_of
from protocol.commands import Generate, Ping
from protocol.enums import Encoding
from protocol.errors import ErrorCode, Fault
from protocol.replies import GenerateReply, ProgressReply

Answering = Callable[[Received], None]


def pong(received: Received) -> None:
    received.send(replies.ping())


def test_replies_out_of_order_reach_the_commands_that_they_answer() -> None:
    held: list[Received] = []

    def answer(received: Received) -> None:
        held.append(received)
        if len(held) == 10:
            for each in reversed(held):
                each.send(replies.ping())

    with Router(answer) as router, Client(router.endpoint) as client:
        pending = [client.submit(Ping()) for _ in range(10)]
        assert [each.result().reply.request_id for each in pending] == [each.request_id for each in pending]


def test_many_threads_share_one_client() -> None:
    answered: list[str | None] = []

    def use(client: Client, number: int) -> None:
        answered.extend(client.ping(request_id=f"{number}-{n}").request_id for n in range(20))

    with Router(pong) as router, Client(router.endpoint) as client:
        threads = [threading.Thread(target=use, args=(client, number)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(set(answered)) == 160


@pytest.mark.parametrize("encoding", list(Encoding))
def test_the_chosen_encoding_is_sent_and_its_reply_read(encoding: Encoding) -> None:
    with Router(pong) as router, Client(router.endpoint, encoding=encoding) as client:
        assert client.ping().time == replies.NOW
        assert router.seen[0].encoding == encoding.value


def test_a_command_without_an_id_gets_a_uuid7() -> None:
    with Router(pong) as router, Client(router.endpoint) as client:
        first, second = client.ping().request_id, client.ping().request_id
    assert first is not None and second is not None and first[14] == "7" and first[:8] <= second[:8] and first != second


def test_progress_comes_before_the_final_reply() -> None:
    def answer(received: Received) -> None:
        for step in (1, 2, 3):
            received.send(replies.progress("generate", step, 3))
        received.send(replies.drawing("image-0"), [replies.PNG])

    steps: list[int | None] = []
    with Router(answer) as router, Client(router.endpoint) as client:
        *before, last = client.stream(Generate(model_id="m", prompt="p", stream_progress=True))
        client.generate("m", "p", on_progress=lambda reply: steps.append(reply.step))
        assert all(isinstance(reply, ProgressReply) for reply in before) and len(before) == 3
        assert isinstance(last, GenerateReply)
        assert steps == [1, 2, 3] and router.seen[1].command.stream_progress


def test_attachments_travel_both_ways() -> None:
    def answer(received: Received) -> None:
        received.send(replies.drawing("a", "b"), [replies.PNG, received.attachments[0]])

    source = b"\x89PNG" + bytes(100_000)
    with Router(answer) as router, Client(router.endpoint) as client:
        answered = client.generate("m", "p", image=source, strength=0.5)
        assert [picture.data for picture in pictures(answered)] == [replies.PNG, source]
        named = router.seen[0].command.attachments[0]
        assert (named.media_type, named.bytes) == ("image/png", len(source))


def test_a_mask_goes_with_its_picture_by_its_name_and_never_alone() -> None:
    def answer(received: Received) -> None:
        received.send(replies.drawing("a"), [received.attachments[1]])

    with Router(answer) as router, Client(router.endpoint) as client:
        answered = client.generate("m", "p", image=replies.PNG, mask=replies.PNG + b"mask")
        assert [picture.data for picture in pictures(answered)] == [replies.PNG + b"mask"]
        assert [named.name for named in router.seen[0].command.attachments] == ["image", "mask"]
        with pytest.raises(ValueError, match="a mask needs the image"):
            client.generate("m", "p", mask=replies.PNG)


def test_attachments_that_do_not_fit_their_names_are_refused_before_sending() -> None:
    with Router(pong) as router, Client(router.endpoint) as client:
        named = msgspec.structs.replace(Ping(), attachments=replies.drawing("a").attachments)
        with pytest.raises(ValueError, match="names 1 attachments, 0 were given"):
            client.send(named)


def test_a_failed_reply_is_raised_as_its_fault() -> None:
    with (
        Router(lambda received: received.send(replies.refusal(action_of(received.command)))) as router,
        Client(router.endpoint) as client,
    ):
        with pytest.raises(CommandFailed) as caught:
            client.load("m")
        assert isinstance(caught.value, Fault)
        assert caught.value.code is ErrorCode.INSUFFICIENT_MEMORY
        assert caught.value.info.recovery[0].parameters == {"model_id": "tiny"}
        assert caught.value.answer.reply.action == "load_model"


def test_silence_is_raised_as_no_answer_and_the_same_id_may_be_sent_again() -> None:
    def answer(received: Received) -> None:
        if len(router.seen) > 1:
            received.send(replies.ping())

    with Router(answer) as router, Client(router.endpoint) as client:
        with pytest.raises(NoAnswer) as caught:
            client.send(Ping(request_id="once"), timeout=0.1)
        assert caught.value.request_id == "once" and caught.value.connected
        assert client.send(Ping(request_id="once")).request_id == "once"


def test_no_broker_is_raised_as_no_answer() -> None:
    with Router(pong) as router:
        endpoint = router.endpoint
    with Client(endpoint) as client:
        with pytest.raises(NoAnswer, match="no broker is connected"):
            client.send(Ping(), timeout=0.2)
        assert not client.connected


def test_a_command_in_flight_is_sent_again_to_the_next_broker() -> None:
    with Router(lambda received: None) as router, Client(router.endpoint) as client:
        pending = client.submit(Ping(request_id="kept"))
        while not router.seen:
            pass
        router.close()
        with Router(pong, router.endpoint):
            assert pending.result().reply.request_id == "kept"


def test_a_silent_broker_gets_the_command_again_with_its_id() -> None:
    def answer(received: Received) -> None:
        if len(router.seen) == 2:
            received.send(replies.ping())

    with Router(answer) as router, Client(router.endpoint, resend_seconds=0.1) as client:
        assert client.send(Ping(request_id="r")).request_id == "r"
        assert [each.command.request_id for each in router.seen] == ["r", "r"]


def test_an_id_in_flight_cannot_be_used_twice() -> None:
    with Router(lambda received: None) as router, Client(router.endpoint) as client:
        client.submit(Ping(request_id="r"))
        with pytest.raises(ValueError, match="'r' is in flight"):
            client.send(Ping(request_id="r"))


def test_closing_ends_what_is_in_flight() -> None:
    with Router(lambda received: None) as router:
        client = Client(router.endpoint)
        pending = client.submit(Ping())
        client.close()
        with pytest.raises(ClientClosed):
            pending.result()
        with pytest.raises(ClientClosed):
            client.ping()


def test_a_reply_of_another_kind_is_named() -> None:
    with Router(pong) as router, Client(router.endpoint) as client, pytest.raises(UnexpectedReply, match="PingReply"):
        client.devices()


def test_a_reply_that_cannot_be_read_ends_its_own_command_alone() -> None:
    held: list[Received] = []

    def answer(received: Received) -> None:
        held.append(received)
        if len(held) == 2:
            held[0].send_raw(b'{"request_id":"broken","action":"ping","state":"completed"}')
            held[1].send(replies.ping())

    with Router(answer) as router, Client(router.endpoint) as client:
        broken, sound = client.submit(Ping(request_id="broken")), client.submit(Ping(request_id="sound"))
        assert sound.result().reply.request_id == "sound"
        with pytest.raises(UnexpectedReply, match="'broken' cannot be read"):
            broken.result()
