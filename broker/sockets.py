"""The broker's sockets: what is bound where, and with which options."""

from __future__ import annotations

import zmq

from broker.publisher import Publisher
from protocol import supervision

HIGH_WATER_MARK = 10_000


class Sockets:
    """The broker's sockets, bound. Raises zmq.ZMQError where an address is taken."""

    def __init__(self, spec: supervision.BrokerSpec) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        limit = spec.limits.attachments_bytes + spec.limits.payload_bytes
        self.commands = self._router(spec.commands, max_bytes=limit, listener=spec.commands_fd)
        self.link = self._router(spec.link, max_bytes=-1)
        self.link.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self.publisher = Publisher(self.context, spec.events, listener=spec.events_fd)

    def _router(self, address: str, *, max_bytes: int, listener: int = -1) -> zmq.Socket[bytes]:
        socket = self.context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.LINGER, 1000)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MARK)
        socket.setsockopt(zmq.MAXMSGSIZE, max_bytes)
        if listener >= 0:
            socket.setsockopt(zmq.USE_FD, listener)
        socket.bind(address)
        return socket

    def close(self) -> None:
        """Send what is on its way, then close."""
        for socket in (self.commands, self.link, self.publisher.socket):
            socket.close()
        self.context.term()
