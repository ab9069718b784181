"""Silence says why: nobody is there, a key is wanted, a key is not admitted, or nothing was said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from zmq.auth.thread import ThreadAuthenticator

from client import Client, CurveKeys, NoAnswer
from client.ledger import Ledger, Outcome
from protocol.commands import Ping
from protocol.enums import Encoding


class Nobody:
    """Admits no key."""

    def callback(self, domain: str, key: bytes) -> bool:
        return False


class Guarded:
    """A ROUTER with CURVE keys that never answers."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.public, secret = (key.decode() for key in zmq.curve_keypair())
        self._socket = context.socket(zmq.ROUTER)
        self._socket.curve_server = True
        self._socket.curve_secretkey = secret.encode()
        self._socket.bind("tcp://127.0.0.1:0")
        self.endpoint = self._socket.last_endpoint.decode()


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    authenticator = ThreadAuthenticator(context)
    authenticator.start()
    authenticator.configure_curve_callback(credentials_provider=Nobody())
    try:
        yield Guarded(context)
    finally:
        authenticator.stop()
        context.destroy(0)


def pair(server: str) -> CurveKeys:
    public, secret = (key.decode() for key in zmq.curve_keypair())
    return CurveKeys(server=server, public=public, secret=secret)


def silence(endpoint: str, keys: CurveKeys | None) -> NoAnswer:
    with Client(endpoint, curve=keys) as client, pytest.raises(NoAnswer) as raised:
        client.send(Ping(), timeout=1.0)
    assert not raised.value.connected and raised.value.refusal in str(raised.value)
    return raised.value


def test_a_client_without_a_key_is_told_that_one_is_wanted(guarded: Guarded) -> None:
    assert "wants a key, and this client has none" in silence(guarded.endpoint, None).refusal


def test_a_key_that_is_not_admitted_is_told_so(guarded: Guarded) -> None:
    assert "does not admit this client's key" in silence(guarded.endpoint, pair(guarded.public)).refusal


def test_a_key_for_another_broker_is_told_so(guarded: Guarded) -> None:
    other = pair(server=zmq.curve_keypair()[0].decode())
    assert "another broker's" in silence(guarded.endpoint, other).refusal


def test_where_nobody_listens_nothing_is_said_about_keys() -> None:
    assert silence("tcp://127.0.0.1:1", None).refusal == ""


def test_a_handshake_that_was_cut_is_forgotten_once_nobody_is_there() -> None:
    told: list[Outcome] = []
    ledger = Ledger("tcp://127.0.0.1:1", Encoding.JSON)
    for event in (zmq.Event.HANDSHAKE_FAILED_NO_DETAIL, zmq.Event.DISCONNECTED, zmq.Event.CLOSED):
        ledger.open(ledger.flight(Ping(), [], told.append, 0.0, 1.0))
        ledger.parted(event)
        ledger.expire(2.0)
    assert ["hangs up" in str(one) for one in told] == [True, True, False]
