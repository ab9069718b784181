"""Bytes to commands and replies to bytes: the only codec.

A command in snake_case with names decodes strictly in one pass; whatever fails there is decoded to builtins and
repaired (`protocol.tolerant`). A reply that nothing renames is encoded straight from its struct.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from protocol import replies as r
from protocol.actions import ACTIONS, ALIASES
from protocol.checks import check
from protocol.commands import AnyCommand, Command
from protocol.dialect import render
from protocol.enums import Encoding, EnumForm, Naming, ReplyState
from protocol.errors import ErrorCode, ErrorInfo, Fault, invalid, missing
from protocol.link import Spelling
from protocol.replies import Limits
from protocol.tolerant import Repair, enum_fields, fold, free_fields, has_long_integer, is_plain

_BOM = b"\xef\xbb\xbf"
_MAP_BYTES = frozenset([*range(0x80, 0x90), 0xDE, 0xDF])
_ARRAY_BYTES = frozenset([*range(0x90, 0xA0), 0xDC, 0xDD])
_ACTION_WORDS = {fold(alias): name for alias, name in ALIASES.items()}
_FOLDED_ACTION = frozenset({"action"})
MOST_VALUES = 20_480
"""Keys and list items in a payload, at any depth: so many cost the broker's one thread some twenty milliseconds."""

DEFAULT_LIMITS = Limits()
_UNBOUNDED = {name: 1 << 62 for name in Limits.__struct_fields__ if name not in ("min_side", "side_multiple")}
NO_LIMITS = Limits(**_UNBOUNDED, min_side=1, side_multiple=1)
"""For what was taken in under limits that may have been others."""

_json_commands = msgspec.json.Decoder(AnyCommand)
_msgpack_commands = msgspec.msgpack.Decoder(AnyCommand)
_json_encoder = msgspec.json.Encoder()
_msgpack_encoder = msgspec.msgpack.Encoder()


class Shown(Struct, frozen=True, kw_only=True):
    """What the spelling of a message shows of its sender's conventions; None for nothing."""

    naming: Naming | None = None
    enums: EnumForm | None = None


class Decoded(Struct, frozen=True, kw_only=True):
    """A command that was understood; `shown` None: it was strict snake_case with names, `shown_by` tells the rest."""

    command: Command
    encoding: Encoding
    warnings: list[str] = []
    shown: Shown | None = None


class Refused(Exception):
    """A payload that is no valid command: the fault, and as much of the command as could be read."""

    def __init__(
        self,
        fault: ErrorInfo,
        encoding: Encoding,
        *,
        request_id: str | None = None,
        action: str = "",
        warnings: list[str] | None = None,
        shown: Shown | None = None,
    ) -> None:
        super().__init__(fault.message)
        self.fault = fault
        self.encoding = encoding
        self.request_id = request_id
        self.action = action
        self.warnings = warnings or []
        self.shown = shown


def decode_command(payload: bytes, limits: Limits = DEFAULT_LIMITS) -> Decoded:
    """The command in a payload, its values checked against the limits. Raises Refused."""
    encoding = encoding_of(payload, limits)
    if len(payload) > MOST_VALUES:  # a value takes a byte at least
        _refuse_many(payload, encoding)
    try:
        command = (_json_commands if encoding is Encoding.JSON else _msgpack_commands).decode(payload)
        if _is_doubtful(command, payload, encoding, limits):
            return _decode_tolerantly(payload, encoding, limits)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _decode_tolerantly(payload, encoding, limits)
    try:
        check(command, limits)
    except Fault as fault:
        action = action_of(command)
        raise Refused(fault.info, encoding, request_id=command.request_id, action=action) from None
    return Decoded(command=command, encoding=encoding)


def _refuse_many(payload: bytes, encoding: Encoding) -> None:
    """Raise Refused for more keys and items than are read; what cannot be decoded is told elsewhere."""
    try:
        value = _builtins(payload, encoding)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return
    level, count = [value], 0
    while level:
        level = [item for item in level if isinstance(item, dict | list)]
        count += sum(map(len, level))
        if count > MOST_VALUES:
            text = f"the payload has more than {MOST_VALUES} keys and items: no more are read"
            raise Refused(malformed(text).info, encoding)
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]


def action_of(command: Command) -> str:
    """The name of a command's action."""
    return str(command.__struct_config__.tag)


def encoding_of(payload: bytes, limits: Limits = DEFAULT_LIMITS) -> Encoding:
    """Which encoding a payload is in, by its first byte. Raises Refused where it is neither or too large."""
    if len(payload) > limits.payload_bytes:
        text = f"the payload has {len(payload)} bytes: at most {limits.payload_bytes} are read"
        packed = payload[0] in _MAP_BYTES or payload[0] in _ARRAY_BYTES
        raise Refused(malformed(text).info, Encoding.MSGPACK if packed else Encoding.JSON)
    first = payload[0] if payload else None
    if first == 0x7B or payload.startswith(_BOM) or payload.lstrip()[:1] == b"{":
        return Encoding.JSON
    if first in _MAP_BYTES:
        return Encoding.MSGPACK
    if first in _ARRAY_BYTES:
        received, encoding = "a MessagePack array", Encoding.MSGPACK
    elif first is None:
        received, encoding = "an empty payload", Encoding.JSON
    elif payload.lstrip()[:1] == b"[":
        received, encoding = "a JSON array", Encoding.JSON
    else:
        received, encoding = f"a payload that begins with byte 0x{first:02x}", Encoding.JSON
    text = f"received {received}: send one JSON object or one MessagePack map with string keys"
    raise Refused(malformed(text).info, encoding)


def malformed(text: str) -> Fault:
    """A payload that cannot be read."""
    return Fault(ErrorCode.MALFORMED_MESSAGE, text)


_ENUM_FIELDS = {
    action.command: tuple(sorted(name.encode() for name in enum_fields(action.command))) for action in ACTIONS.values()
}
_ENUM_KEYS = {command: re.compile(b'"(?:%b)"' % b"|".join(names)) for command, names in _ENUM_FIELDS.items()}


def mentions_enum(command: Command, payload: bytes, encoding: Encoding) -> bool:
    """Could the payload of a command that decoded strictly hold an enum of the host? False is certain."""
    if encoding is Encoding.JSON:
        return _ENUM_KEYS[type(command)].search(payload) is not None
    return any(map(payload.__contains__, _ENUM_FIELDS[type(command)]))


def shown_by(payload: bytes, encoding: Encoding) -> Shown:
    """What a payload that decoded strictly shows."""
    repair = Repair(from_client=False)
    value = _builtins(payload, encoding)
    repair.struct(value, ACTIONS[value["action"]].command, ignore=_FOLDED_ACTION)
    return Shown(naming=repair.naming, enums=repair.enums)


def _builtins(payload: bytes, encoding: Encoding) -> Any:
    if encoding is Encoding.JSON:
        return msgspec.json.decode(payload.removeprefix(_BOM))
    return msgspec.msgpack.decode(payload)


def _is_doubtful(command: Command, payload: bytes, encoding: Encoding, limits: Limits) -> bool:
    """Whether a command that decoded strictly holds free content that is too deep, or that no reply could say again."""
    if not has_long_integer(command) and not _has_free_content(command):
        return False
    return not is_plain(_builtins(payload, encoding), limits.payload_depth)


def _has_free_content(value: Struct) -> bool:
    for name in free_fields(type(value)):
        content = getattr(value, name)
        if _has_free_content(content) if isinstance(content, Struct) else content:
            return True
    return False


def _check_depth(value: Any, limits: Limits) -> None:
    level, depth = [value], 0
    while level:
        level = [item for item in level if isinstance(item, dict | list)]
        depth += bool(level)
        if depth > limits.payload_depth:
            raise malformed(f"the payload is nested deeper than {limits.payload_depth} levels")
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]


def _decode_tolerantly(payload: bytes, encoding: Encoding, limits: Limits) -> Decoded:
    try:
        value = _builtins(payload, encoding)
        if not isinstance(value, dict):
            raise malformed("send one JSON object or one MessagePack map with string keys")
        _check_depth(value, limits)
    except RecursionError:
        text = f"the payload is nested deeper than {limits.payload_depth} levels"
        raise Refused(malformed(text).info, encoding) from None
    except Fault as fault:
        raise Refused(fault.info, encoding) from None
    except (msgspec.DecodeError, ValueError) as error:
        kind = "JSON" if encoding is Encoding.JSON else "MessagePack"
        raise Refused(malformed(f"the payload is not valid {kind}: {str(error)[:200]}").info, encoding) from None
    return _repaired(value, encoding, limits)


def _repaired(value: dict[Any, Any], encoding: Encoding, limits: Limits) -> Decoded:
    repair = Repair()
    action, request_id = "", None
    try:
        for key in value:
            if isinstance(key, str):
                repair.see_key(key)
        request_id = _text_field(value, "requestid")
        action = _action(value)
        command = repair.struct(value, ACTIONS[action].command, ignore=_FOLDED_ACTION)
        check(command, limits)
    except Fault as fault:
        raise Refused(
            fault.info,
            encoding,
            request_id=request_id,
            action=action,
            warnings=repair.warnings,
            shown=Shown(naming=repair.naming, enums=repair.enums),
        ) from None
    shown = Shown(naming=repair.naming, enums=repair.enums)
    return Decoded(command=command, encoding=encoding, warnings=repair.warnings, shown=shown)


def _text_field(value: dict[Any, Any], folded: str) -> str | None:
    found = [item for key, item in value.items() if isinstance(key, str) and fold(key) == folded]
    return found[-1] if found and isinstance(found[-1], str) else None


def _action(value: dict[Any, Any]) -> str:
    found = [item for key, item in value.items() if isinstance(key, str) and fold(key) == "action"]
    if not found or found[-1] is None or found[-1] == "":
        raise missing("action")
    word = found[-1]
    if not isinstance(word, str):
        raise invalid("action", word, "text")
    name = _ACTION_WORDS.get(fold(word))
    if name is None:
        text = f"action is '{word[:80]}': hello lists the actions known here"
        raise Fault(ErrorCode.UNKNOWN_ACTION, text, details={"action": word[:80]})
    return name


def encode_command(
    command: Command, encoding: Encoding, naming: Naming = Naming.SNAKE, enums: EnumForm = EnumForm.NAME
) -> bytes:
    """A command as a client sends it."""
    return _encode(command, Spelling(encoding=encoding, naming=naming, enums=enums))


def encode_reply(reply: Struct, spelling: Spelling) -> bytes:
    """A reply in the spelling that its client asked for or showed."""
    return _encode(reply, spelling)


def _encode(value: Struct, spelling: Spelling) -> bytes:
    encoder = _json_encoder if spelling.encoding is Encoding.JSON else _msgpack_encoder
    if spelling.naming is Naming.SNAKE and spelling.enums is EnumForm.NAME:
        return encoder.encode(value)
    return encoder.encode(render(value, spelling.encoding, spelling.naming, spelling.enums))


def decode_reply(payload: bytes) -> r.Reply:
    """The reply in a payload of any encoding and spelling. Raises Fault."""
    try:
        encoding = encoding_of(payload, Limits(payload_bytes=len(payload)))
        return reply_of(_builtins(payload, encoding))
    except Refused as refused:
        raise malformed(refused.fault.message) from None
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise malformed(f"the reply cannot be read: {str(error)[:200]}") from None


def reply_of(value: Any) -> r.Reply:
    """A reply from its builtins in any spelling. Raises Fault, and RecursionError where results nest without end."""
    if not isinstance(value, dict):
        raise invalid("reply", value, "an object")
    folded = {fold(key): key for key in value if isinstance(key, str)}
    action, state_word = (value.get(folded.get(name, "")) for name in ("action", "state"))
    try:
        state = ReplyState(state_word)
    except ValueError:
        raise invalid("state", state_word, "a reply's state") from None
    cls = _reply_class(action, state)
    if cls is r.LoadModelReply and "memoryusage" in folded:
        value = _load_from_host(value, folded["memoryusage"])
    reply: r.Reply = Repair(from_client=False).struct(value, cls)
    if isinstance(reply, r.GetResultReply) and reply.result is not None:
        return msgspec.structs.replace(reply, result=reply_of(reply.result))
    return reply


def _reply_class(action: object, state: ReplyState) -> type[r.Reply]:
    match state:
        case ReplyState.ACCEPTED:
            return r.AcceptedReply
        case ReplyState.PROGRESS:
            return r.ProgressReply
        case ReplyState.COMPLETED if isinstance(action, str) and action in ACTIONS:
            return ACTIONS[action].reply
        case _:
            return r.FailedReply


def _load_from_host(value: dict[str, Any], key: str) -> dict[str, Any]:
    """A load's reply with the host's record under its wire name and the seed's number read from the record."""
    record = value[key]
    if not isinstance(record, dict):
        return value
    total = next((item for name, item in record.items() if fold(str(name)) == "modelmemorybytes"), 0)
    return {**value, key: total, "memory": record}
