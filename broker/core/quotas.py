"""What each key may ask for, and when it may ask again: messages' size, rate, work under way. Pure: time is passed in.

Invariant: every command that was begun is ended once, so a key's count is that of its work under way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from msgspec import Struct

from protocol.errors import ErrorCode, Fault
from protocol.supervision import Quota

UNMEASURED_MS = 1000
"""How long to wait for room where nothing of a key's work has ended yet."""

SHORTEST_MS, LONGEST_MS = 10, 60_000
WEIGHT = 0.2
"""Of the newest interval, in the moving average of the time between two ends."""


class Sender(Struct, frozen=True, gc=False):
    """Whose message it is, by its key, which CURVE has proved: never by its routing id.

    `scope` begins the request ids of this key as the broker knows them. `admitted` False: the allow-list has the key no
    more.
    """

    name: str
    scope: str
    admin: bool = False
    admitted: bool = True


class Bucket:
    """A token bucket: `burst` commands at once, then `per_second` of them."""

    def __init__(self, per_second: float, burst: int, now: float) -> None:
        self._per_second = per_second
        self._burst = float(burst)
        self._tokens = float(burst)
        self._filled_at = now

    def take(self, now: float) -> float:
        """Take one token: 0, or the seconds until there is one, with nothing taken."""
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._per_second)
        self._filled_at = now
        if self._tokens < 1.0:
            return (1.0 - self._tokens) / self._per_second
        self._tokens -= 1.0
        return 0.0


class _Account:
    """One key's use."""

    def __init__(self, quota: Quota, now: float) -> None:
        self.quota = quota
        self.bucket = Bucket(quota.commands_per_second, quota.burst, now)
        self.under_way = 0
        self.ended_at = now
        self.interval_seconds = 0.0

    def next_end_ms(self, now: float) -> int:
        """When the next of its commands should end, from how often they have."""
        if not self.interval_seconds:
            return UNMEASURED_MS
        left = self.interval_seconds - (now - self.ended_at)
        return max(SHORTEST_MS, min(LONGEST_MS, math.ceil(left * 1000.0)))


class Quotas:
    """The accounts of all keys; they last as long as the broker, and there are no more than the allow-list had."""

    def __init__(self, common: Quota, own: Mapping[str, Quota]) -> None:
        self._common = common
        self._own = own
        self._accounts: dict[str, _Account] = {}

    def check(self, sender: Sender, size_bytes: int, now: float) -> None:
        """One message more. Raises UNAUTHORIZED, or QUEUE_FULL with the time after which it would be taken."""
        if not sender.admitted:
            raise Fault(ErrorCode.UNAUTHORIZED, "this key is not admitted now")
        account = self._account(sender, now)
        quota = account.quota
        wait_seconds = account.bucket.take(now)
        if wait_seconds:
            text = f"the key {sender.name} may send {quota.commands_per_second:g} commands a second"
            raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=math.ceil(wait_seconds * 1000.0))
        if size_bytes > quota.message_bytes:
            text = f"the message has {size_bytes} bytes: the key {sender.name} may send {quota.message_bytes}"
            raise Fault(ErrorCode.QUEUE_FULL, text, retryable=False)

    def begin(self, sender: Sender, now: float) -> None:
        """One command more is under way. Raises QUEUE_FULL where that is one too many; it has begun even so."""
        account = self._account(sender, now)
        account.under_way += 1
        limit = account.quota.in_flight
        if account.under_way > limit:
            text = f"{limit} commands of the key {sender.name} are under way: it may have no more"
            raise Fault(ErrorCode.QUEUE_FULL, text, retry_after_ms=account.next_end_ms(now))

    def end(self, sender: Sender, now: float) -> None:
        """A command that was begun has ended; one that was one too many says nothing about the next."""
        account = self._account(sender, now)
        refused = account.under_way > account.quota.in_flight
        account.under_way -= 1
        if refused:
            return
        interval = now - account.ended_at
        known = account.interval_seconds
        account.interval_seconds = known + WEIGHT * (interval - known) if known else interval
        account.ended_at = now

    def _account(self, sender: Sender, now: float) -> _Account:
        account = self._accounts.get(sender.scope)
        if account is None:
            quota = self._own.get(sender.name, self._common)
            account = self._accounts[sender.scope] = _Account(quota, now)
        return account
