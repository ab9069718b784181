"""Where a client's envelope ends and its payload begins: the four shapes that ZeroMQ clients send.

Nothing (bare DEALER), an empty delimiter (REQ, or a DEALER that adds one), a 4-byte correlation frame and a delimiter
(NetMQ's `Correlate`); the envelope goes back unchanged on every reply.
"""

from __future__ import annotations

from collections.abc import Sequence

CORRELATION_BYTES = 4


def split(frames: Sequence[bytes]) -> tuple[tuple[bytes, ...], bytes, tuple[bytes, ...]]:
    """Envelope, payload and attachments of the frames behind a routing id. A missing payload is empty."""
    if len(frames) == 1 and frames[0]:
        return (), frames[0], ()
    if frames and not frames[0]:
        size = 1
    elif len(frames) > 1 and not frames[1] and len(frames[0]) == CORRELATION_BYTES:
        size = 2
    else:
        size = 0
    payload = frames[size] if len(frames) > size else b""
    return tuple(frames[:size]), payload, tuple(frames[size + 1 :])
