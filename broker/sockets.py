"""The broker's sockets: what is bound where, and with which options."""

from __future__ import annotations

import contextlib
import os

import zmq

from broker.auth import Doors
from broker.publisher import Publisher
from protocol import supervision
from protocol.supervision import Door

HIGH_WATER_MARK = 10_000
MOST_UNSENT = 2000
"""Small replies that libzmq holds for one client; large ones are counted in bytes (`broker.outbox`)."""

KEEPALIVE = {zmq.TCP_KEEPALIVE: 1, zmq.TCP_KEEPALIVE_IDLE: 60, zmq.TCP_KEEPALIVE_INTVL: 10, zmq.TCP_KEEPALIVE_CNT: 6}
"""A host that was switched off is noticed within two minutes."""


def _again(descriptor: int) -> int:
    """Another descriptor of a listener: libzmq closes the one that it is given when it stops listening."""
    return os.dup(descriptor) if descriptor >= 0 else -1


class Sockets:
    """The broker's sockets, bound. Raises zmq.ZMQError where an address is taken."""

    def __init__(self, spec: supervision.BrokerSpec) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.doors = Doors(self.context, spec) if spec.guarded else None
        """Those of the endpoints that keys guard, None where there are none."""
        self._guarded = spec.guarded
        limit = spec.limits.attachments_bytes + spec.limits.payload_bytes
        self._listeners = {Door.COMMANDS: spec.commands_fd, Door.EVENTS: spec.events_fd}
        self.commands = self._router(Door.COMMANDS, spec.commands, max_bytes=limit, listener=_again(spec.commands_fd))
        self.link = self._router(Door.WORKERS, spec.link, max_bytes=-1)
        self.link.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.publisher = Publisher(
            self.context, spec.events, _again(spec.events_fd), lambda socket: self._guard(socket, Door.EVENTS)
        )
        self._addresses = {
            Door.COMMANDS: self.commands.getsockopt_string(zmq.LAST_ENDPOINT),
            Door.EVENTS: self.publisher.address,
        }

    def _router(self, door: Door, address: str, *, max_bytes: int, listener: int = -1) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 1000)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, MOST_UNSENT if door is Door.COMMANDS else HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        for option, value in KEEPALIVE.items():
            socket.setsockopt(option, value)
        if door not in self._guarded:
            # Without keys a routing id is whoever's: the successor of a client that hangs is served.
            socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        if listener >= 0:
            socket.setsockopt(zmq.USE_FD, listener)
        self._guard(socket, door)
        socket.bind(address)
        return socket

    def listen(self, on: bool) -> None:
        """Take new connections of clients, or leave them in the backlog; those that there are stay."""
        for door, socket in ((Door.COMMANDS, self.commands), (Door.EVENTS, self.publisher.socket)):
            address = self._addresses[door]
            if not on:
                socket.unbind(address)
                continue
            if self._listeners[door] >= 0:
                socket.setsockopt(zmq.USE_FD, _again(self._listeners[door]))
            socket.bind(address)

    def bind_link_again(self) -> None:
        """Give the worker link's socket its place in the file system back; connections that there are stay."""
        address = self.link.getsockopt_string(zmq.LAST_ENDPOINT)
        with contextlib.suppress(zmq.ZMQError):
            self.link.unbind(address)
        self.link.bind(address)

    def doors_of(self, door: Door) -> Doors | None:
        """Who guards an endpoint; None for one that is plain."""
        return self.doors if door in self._guarded else None

    def _guard(self, socket: zmq.Socket[bytes], door: Door) -> None:
        doors = self.doors_of(door)
        if doors is not None:
            doors.guard(socket, door)

    def close(self) -> None:
        """Send what is on its way, then close."""
        if self.doors is not None:
            self.doors.close()
        for socket in (self.commands, self.link, self.publisher.socket):
            socket.close()
        self.context.term()
