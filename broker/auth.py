"""Who is let in: the ZAP handler of the endpoints that keys guard, whose each message is, and a log of who was refused.

Runs in the broker's one thread: a handshake waits for a turn of the loop, and nothing here needs a lock. What a sender
may ask for is the core's to decide.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from os import dup
from pathlib import Path

import zmq
from zmq.utils import z85

from broker.core.quotas import Bucket, Sender
from broker.frames import readable
from broker.ring import Ring
from protocol.supervision import BrokerSpec, Door
from settings.keys import KeyFolder
from settings.logs import Logger

Socket = zmq.Socket[bytes]

ZAP_ADDRESS = "inproc://zeromq.zap.01"
HANDSHAKE_MS = 10_000
_USER_ID, _FD = "User-Id", int(zmq.SRCFD)
_EVENT = struct.Struct("=HI")
_FAILED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_WATCHED = _FAILED | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
_REASONS = {
    0x11000001: "its server key is not ours, or its encryption is wrong",
    0x11000002: "it came without CURVE",
}

_log = Logger()


class RefusalLog:
    """Warnings about peers that were refused: thirty at once, then one a second, and how many were not told."""

    def __init__(self) -> None:
        self._bucket = Bucket(1.0, 30, time.monotonic())
        self._untold = 0

    def tell(self, reason: str, **fields: str) -> None:
        """Write one line, or count it."""
        if self._bucket.take(time.monotonic()):
            self._untold += 1
            return
        _log.warning("a handshake was refused", reason=reason, untold=self._untold, **fields)
        self._untold = 0


class _Watch:
    """The monitor of one guarded socket: addresses of its connections, handshakes that failed, connections that ended.

    Its queue has no bound: libzmq's I/O thread would wait for room in it.
    """

    def __init__(self, context: zmq.Context[Socket], guarded: Socket, door: Door, refusals: RefusalLog) -> None:
        self._guarded = guarded
        self._door = door
        self._refusals = refusals
        self._peers: dict[int, str] = {}
        self._reason = ""
        address = f"inproc://watch.{door.value}"
        guarded.monitor(address, _WATCHED)
        self.socket: Socket = context.socket(zmq.PAIR)
        self.socket.setsockopt(zmq.RCVHWM, 0)
        self.socket.connect(address)

    def ended(self) -> Iterator[int]:
        """Take what there is; the descriptors of connections that are gone."""
        while readable(self.socket):
            event, value = _EVENT.unpack(self.socket.recv_multipart()[0])
            if event == zmq.EVENT_ACCEPTED:
                self._peers[value] = _peer(value)
                yield value
            elif event & _FAILED:
                protocol = event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
                self._reason = (
                    _REASONS.get(value, f"ZMTP error {value:#x}")
                    if protocol
                    else "it broke off, as peers without CURVE do"
                )
            else:
                self._gone(value)
                yield value

    def cut(self) -> None:
        """End every connection here; who is still admitted comes again by itself."""
        for descriptor in self._peers:
            _shut(descriptor)

    def _gone(self, descriptor: int) -> None:
        """libzmq tells of a failed handshake right before the end of its connection, which alone names it."""
        peer = self._peers.pop(descriptor, "unknown")
        if self._reason:
            self._refusals.tell(self._reason, endpoint=self._door.value, peer=peer)
            self._reason = ""

    def close(self) -> None:
        self._guarded.disable_monitor()
        self.socket.close()


class Doors:
    """Guards sockets with CURVE and knows whose message is whose. Raises ConfigError where there is no server key."""

    def __init__(self, context: zmq.Context[Socket], spec: BrokerSpec) -> None:
        folder = KeyFolder(Path(spec.keys))
        self._context = context
        self._server = folder.server()
        self._ring = Ring(folder.path)
        self._ring.look()
        self._refusals = RefusalLog()
        self._watches: dict[Door, _Watch] = {}
        self._speakers: dict[bytes, tuple[str, int]] = {}
        self._connections: dict[int, bytes] = {}
        self._subscribers: set[str] = set()
        self._seen_version = self._ring.version
        self._zap: Socket = context.socket(zmq.REP)
        self._zap.setsockopt(zmq.LINGER, 0)
        self._zap.bind(ZAP_ADDRESS)

    def guard(self, guarded: Socket, door: Door) -> None:
        """Let only admitted keys connect to a socket that is not bound yet.

        With a domain that must be there, libzmq asks this handler about every peer, and refuses them all where it
        cannot; a peer without CURVE fails before that.
        """
        guarded.setsockopt(zmq.CURVE_SERVER, 1)
        guarded.setsockopt(zmq.CURVE_SECRETKEY, self._server.secret.encode())
        guarded.setsockopt(zmq.ZAP_DOMAIN, door.value.encode())
        guarded.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        guarded.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        self._watches[door] = _Watch(self._context, guarded, door, self._refusals)

    @property
    def sockets(self) -> list[Socket]:
        """What the loop has to wait for."""
        return [self._zap, *(watch.socket for watch in self._watches.values())]

    def attend(self) -> None:
        """Answer the handshakes that wait, take in what the monitors tell, and see who is admitted no more."""
        while readable(self._zap):
            self._zap.send_multipart(self._judge(self._zap.recv_multipart()))
        for door, watch in self._watches.items():
            for descriptor in watch.ended():
                if door is Door.COMMANDS:
                    self._forget(descriptor)
        self._ring.look()
        if self._ring.version != self._seen_version:
            self._seen_version = self._ring.version
            self._cut_subscribers()

    def receive(self, guarded: Socket, door: Door) -> tuple[bytes, list[bytes], Sender]:
        """A message with its sender; where it came from is named by key and routing id. Raises zmq.Again.

        The key is read from the message itself: libzmq put it there when it decrypted the connection's handshake, so no
        table can be stale. A table by routing id could be: once a connection is gone, another key may take its id.
        """
        routing_id, *frames = guarded.recv_multipart(zmq.DONTWAIT, copy=False)
        public = str(frames[0].get(_USER_ID))
        sender = self._ring.sender(public, door)
        if door is Door.WORKERS and not sender.admitted:
            _shut(int(frames[0].get(_FD)))
        if door is Door.COMMANDS:
            self._heard(routing_id.bytes, public, int(frames[0].get(_FD)))
            return public.encode() + routing_id.bytes, [frame.bytes for frame in frames], sender
        return routing_id.bytes, [frame.bytes for frame in frames], sender

    def route(self, client: bytes) -> bytes | None:
        """The routing id that leads to a client, None where its connection is gone.

        A reply must not go to whoever took the id over: only a connection that has spoken under it with the same key,
        and has not ended since, is the client's. The ROUTER refuses an id in use, and the end of its connection is told
        here before the ROUTER lets go of it, so who looks right before each send sees it.
        """
        public, routing_id = client[:40], client[40:]
        self._see_ends()
        speaker = self._speakers.get(routing_id)
        return routing_id if speaker is not None and speaker[0].encode() == public else None

    def close(self) -> None:
        """Close what was opened here; before the guarded sockets are."""
        for watch in self._watches.values():
            watch.close()
        self._zap.close()

    def _heard(self, routing_id: bytes, public: str, descriptor: int) -> None:
        """Remember who speaks under an id; first, what ended before that, lest a descriptor used again be mistaken."""
        self._see_ends()
        if self._speakers.get(routing_id) != (public, descriptor):
            self._speakers[routing_id] = (public, descriptor)
            self._connections[descriptor] = routing_id

    def _see_ends(self) -> None:
        for descriptor in self._watches[Door.COMMANDS].ended():
            self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        routing_id = self._connections.pop(descriptor, None)
        if routing_id is not None and self._speakers.get(routing_id, ("", -1))[1] == descriptor:
            del self._speakers[routing_id]

    def _cut_subscribers(self) -> None:
        """Where a key that subscribed may no more, every subscription ends: libzmq does not tell whose is which.

        Subscribers connect again by themselves, and those that are still admitted are let in.
        """
        gone = {public for public in self._subscribers if not self._ring.may_enter(public, Door.EVENTS)}
        watch = self._watches.get(Door.EVENTS)
        if gone and watch is not None:
            self._subscribers -= gone
            watch.cut()

    def _judge(self, request: list[bytes]) -> list[bytes]:
        """The answer to a ZAP request (RFC 27): 200 with the key as the user's id, or 400."""
        version, number, domain, address, _, mechanism, *credentials = [*request, *[b""] * 6][: max(len(request), 6)]
        public = z85.encode(credentials[0]).decode() if credentials and len(credentials[0]) == 32 else ""
        reason = "it came without CURVE"
        if version == b"1.0" and mechanism == b"CURVE" and len(credentials) == 1 and public:
            key = self._ring.key(public)
            reason = "its key is not admitted"
            if key is not None:
                if any(domain == door.value.encode() and self._ring.may_knock(key, door) for door in Door):
                    if domain == Door.EVENTS.value.encode():
                        self._subscribers.add(public)
                    return [version, number, b"200", b"OK", public.encode(), b""]
                reason = f"its key {key.name} has the role {key.role.value}"
        where = domain.decode(errors="replace")
        self._refusals.tell(reason, endpoint=where, peer=address.decode(errors="replace"), key=public)
        return [b"1.0", number, b"400", b"not admitted", b"", b""]


def _shut(descriptor: int) -> None:
    """End a connection of libzmq's, which finds it closed by its peer."""
    with contextlib.suppress(OSError, ValueError), socket.socket(fileno=dup(descriptor)) as connection:
        connection.shutdown(socket.SHUT_RDWR)


def _peer(descriptor: int) -> str:
    """The address at the other end of a connection of this process; unknown where it was over too soon."""
    try:
        with socket.socket(fileno=dup(descriptor)) as connection:
            host, port, *_ = connection.getpeername()
    except (OSError, ValueError):
        return "unknown"
    return f"{host}:{port}"
