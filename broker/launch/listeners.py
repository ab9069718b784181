"""Listening sockets that outlive the broker: it is handed them, so that a restarted broker has the same addresses.

While no broker runs, clients that connect wait in the socket's backlog; nobody else can take the port.
"""

from __future__ import annotations

import ipaddress
import socket

BACKLOG = 1024


def listen(address: str) -> socket.socket | None:
    """A socket that listens at a `tcp://` address with a numeric host; None for any other: the broker binds it.

    Raises OSError where the address cannot be had.
    """
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    try:
        version = ipaddress.ip_address(host.strip("[]")).version
        number = 0 if port == "*" else int(port)
    except ValueError:
        return None
    if not address.startswith("tcp://"):
        return None
    listener = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), number))
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


def descriptor(listener: socket.socket | None) -> int:
    """What a spec names a listener by; -1 for none."""
    return -1 if listener is None else listener.fileno()
