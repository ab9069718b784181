"""How each connection wants its replies spelled: what a message says, shows, or what its sender showed before."""

from __future__ import annotations

from collections import OrderedDict

from protocol.codec import Decoded, Shown, mentions_enum, shown_by
from protocol.commands import Conventions
from protocol.enums import Encoding, EnumForm, Naming
from protocol.link import Spelling

_NOTHING = Shown()
_MAX_CONNECTIONS = 65_536
_PLAIN_JSON, _PLAIN_MSGPACK = Spelling(encoding=Encoding.JSON), Spelling(encoding=Encoding.MSGPACK)


class ConnectionConventions:
    """The one authority for the spelling of replies.

    Invariant: the most recently heard connections are remembered, at most 65,536; a forgotten one starts anew.
    """

    def __init__(self) -> None:
        self._shown: OrderedDict[bytes, Shown] = OrderedDict()

    def spelling(self, client: bytes, decoded: Decoded, payload: bytes) -> Spelling:
        """The spelling of the replies to a command, remembering what it shows."""
        before = self._shown.get(client, _NOTHING)
        asked = decoded.command.conventions
        shown = decoded.shown
        if shown is None:
            plain = asked is None and before.naming in (None, Naming.SNAKE) and before.enums is not EnumForm.NUMBER
            known = before.enums is EnumForm.NAME
            if plain and (known or not mentions_enum(decoded.command, payload, decoded.encoding)):
                return _PLAIN_JSON if decoded.encoding is Encoding.JSON else _PLAIN_MSGPACK
            shown = shown_by(payload, decoded.encoding)
        return self.resolve(client, decoded.encoding, shown, asked)

    def resolve(
        self, client: bytes, encoding: Encoding, shown: Shown | None, asked: Conventions | None = None
    ) -> Spelling:
        """The spelling from what is asked, else shown, else remembered, else the default."""
        seen = shown or _NOTHING
        before = self._shown.get(client, _NOTHING)
        after = Shown(naming=seen.naming or before.naming, enums=seen.enums or before.enums)
        self._remember(client, after)
        naming = (asked and asked.naming) or after.naming or Naming.SNAKE
        default = EnumForm.NAME if naming is Naming.SNAKE else EnumForm.NUMBER
        return Spelling(encoding=encoding, naming=naming, enums=(asked and asked.enums) or after.enums or default)

    def set(self, client: bytes, asked: Conventions) -> None:
        """What a `hello` sets for its connection."""
        before = self._shown.get(client, _NOTHING)
        self._remember(client, Shown(naming=asked.naming or before.naming, enums=asked.enums or before.enums))

    def _remember(self, client: bytes, shown: Shown) -> None:
        self._shown[client] = shown
        self._shown.move_to_end(client)
        if len(self._shown) > _MAX_CONNECTIONS:
            self._shown.popitem(last=False)
