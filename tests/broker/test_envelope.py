"""The four shapes of a client's message."""

from __future__ import annotations

import msgspec
import pytest
from room import Room, sent

from broker import envelope
from broker.core.events import ClientMessage

PAYLOAD = b'{"action":"ping"}'


@pytest.mark.parametrize(
    ("frames", "shape"),
    [
        ([PAYLOAD], ()),
        ([b"", PAYLOAD], (b"",)),
        ([b"\x01\x02\x03\x04", b"", PAYLOAD], (b"\x01\x02\x03\x04", b"")),
    ],
)
@pytest.mark.parametrize("attachments", [(), (b"a",), (b"", b"b" * 4)])
def test_every_envelope_is_told_from_payload_and_attachments(
    frames: list[bytes], shape: tuple[bytes, ...], attachments: tuple[bytes, ...]
) -> None:
    assert envelope.split([*frames, *attachments]) == (shape, PAYLOAD, attachments)


@pytest.mark.parametrize("shape", [(), (b"",), (b"\x00\xff\x01\x00", b"")])
@pytest.mark.parametrize("payload", [PAYLOAD, b"garbage", b'{"action":"list_devices","device_id":"cuda:9"}'])
def test_every_reply_mirrors_the_envelope(shape: tuple[bytes, ...], payload: bytes) -> None:
    room = Room()
    parts, body, attachments = envelope.split([*shape, payload])
    (reply,) = sent(room.handle(ClientMessage(b"\x00\x01", parts, body, attachments)))
    assert reply.client == b"\x00\x01"
    assert reply.frames[:-1] == shape
    assert "state" in msgspec.json.decode(reply.frames[-1])


@pytest.mark.parametrize("frames", [[], [b""], [b"abcd"], [b"abcd", b""], [b"", b""]])
def test_a_message_without_a_payload_is_malformed_not_fatal(frames: list[bytes]) -> None:
    parts, payload, attachments = envelope.split(frames)
    (reply,) = sent(Room().handle(ClientMessage(b"c", parts, payload, attachments)))
    assert msgspec.json.decode(reply.frames[-1])["error"]["code"] == "MALFORMED_MESSAGE"
