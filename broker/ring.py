"""The keys that are admitted now: the broker's copy of the allow-list, never older than a second.

Decides what a key is admitted as. Who may do what with it is the core's to decide; connections are `broker.auth`'s.
"""

from __future__ import annotations

import time
from pathlib import Path

from broker.core.quotas import Sender
from broker.premises import ROLES
from protocol.link import SCOPE_END
from protocol.supervision import Door
from settings.allowlist import FRESH_NS, AllowList, PublicKey, Role
from settings.logs import Logger

LOOK_SECONDS = 0.3
"""How old the broker's copy of the allow-list may be: with a turn of the loop, well below a second."""

_log = Logger()


class Ring:
    """The allow-list as it stands in the keys folder, by public key; a folder that is gone admits nobody.

    `version` grows whenever it has changed, whoever's question made this look.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._list = AllowList(folder)
        self._keys: dict[str, PublicKey] = {}
        self._doubtful: dict[str, PublicKey] = {}
        self._senders: dict[str, Sender] = {}
        self._problems: list[str] = []
        self.version = 0
        self._changed_ns = -1
        self._look_at = 0.0

    def key(self, public: str) -> PublicKey | None:
        """The entry of a key at a handshake, None for one that the folder does not name.

        A key that is not known makes this look at once where the folder has changed: libzmq's peers do not try again
        after they were refused.
        """
        self.look()
        if public not in self._keys and self._has_changed():
            self._look_at = 0.0
            self.look()
        return self._keys.get(public) or self._doubtful.get(public)

    def may_knock(self, key: PublicKey, door: Door) -> bool:
        """Whether a handshake succeeds: where there are replies, a key in doubt is told that it may do nothing."""
        if key.public in self._keys:
            return key.role in ROLES[door]
        return door is Door.COMMANDS and key.role in ROLES[door]

    def may_enter(self, public: str, door: Door) -> bool:
        """Whether a key is admitted at a door now."""
        key = self._keys.get(public)
        return key is not None and key.role in ROLES[door]

    def sender(self, public: str, door: Door) -> Sender:
        """The sender of a message that came with this key through this door."""
        self.look()
        known = self._senders.get(public)
        if known is not None:
            return known
        key = self._keys.get(public)
        admin = key is not None and key.role is Role.ADMIN
        name = key.name if key is not None else ""
        sender = Sender(name, public + SCOPE_END, admin, self.may_enter(public, door))
        self._senders[public] = sender
        return sender

    def look(self) -> None:
        """Read the allow-list again where the last look is old."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        self._has_changed()
        found = self._list.read()
        for problem in found.problems:
            if problem not in self._problems:
                _log.error("the allow-list admits less than it holds", reason=problem)
        self._problems = found.problems
        self._doubtful = {key.public: key for key in found.doubtful}
        keys = {key.public: key for key in found.keys}
        if keys != self._keys:
            self._keys = keys
            self._senders.clear()
            self.version += 1

    def _has_changed(self) -> bool:
        """Whether an entry may have come since this was asked last: one stat of the folder."""
        try:
            changed_ns = self._folder.stat().st_mtime_ns
        except OSError:
            changed_ns = -1
        before, self._changed_ns = self._changed_ns, changed_ns
        return changed_ns != before or time.time_ns() - changed_ns < FRESH_NS
