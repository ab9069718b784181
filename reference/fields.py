"""`docs/fields.md`: every field of every command, reply, event and record, from the structs themselves."""

from __future__ import annotations

import enum
import types
import typing
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from protocol import enums
from protocol import replies as r
from protocol.actions import ACTIONS
from protocol.commands import Command
from protocol.dialect import HOST_FIELDS, pascal
from protocol.events import EVENTS
from reference.meanings import COMMON, meaning

HEAD = """# Fields

Made from the structs by `make docs`; [protocol.md](protocol.md) says what they do. Names are snake_case, as on the
seed's wire; in camelCase and PascalCase each word is capitalised, and where the host's class has another name it stands
beside it. `T?` may be null. A field without a default is required; one of a reply without a default is always there.

JSON has datetimes as ISO 8601 with `Z`, durations as seconds unless the name says `_ms`; MessagePack has timestamps.
"""

WORDS = {
    str: "text",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime: "datetime",
    Any: "any",
    type(None): "null",
}


def page() -> str:
    """The whole page."""
    seen: dict[str, type[Struct]] = {}
    parts = [HEAD, "## Every command\n", _table(Command, seen, [COMMON[name] for name in _names(Command)])]
    common = set(_names(Command))
    for name, action in ACTIONS.items():
        aliases = f" (`{'`, `'.join(action.aliases)}`)" if action.aliases else ""
        parts.append(f"## `{name}`{aliases}\n\nLane {action.lane.value}, deadline {action.timeout_seconds:g} s.\n")
        own = [field for field in _names(action.command) if field not in common]
        parts.append(_table(action.command, seen, [meaning(name, field) for field in own], own))
        told = [field for field in _names(action.reply) if field not in _names(r.Reply)]
        parts.append("The reply adds:\n")
        parts.append(_table(action.reply, seen, None, told))
    parts += ["## Every reply\n", _table(r.Reply, seen)]
    for cls in (r.AcceptedReply, r.ProgressReply, r.FailedReply):
        parts += [f"### {cls.__name__}\n", f"{_said(cls)}\n", _table(cls, seen, None, _beyond(cls, r.Reply))]
    parts.append("## Events\n")
    for topic, event in EVENTS.items():
        parts += [f"### `{topic}`\n", _table(event, seen)]
    parts += ["## Records\n", *_records(seen)]
    parts += ["## Words\n", "Enums by name or ordinal; the ordinals are those of the host.\n", _enums()]
    return "\n".join(parts).rstrip() + "\n"


def _records(seen: dict[str, type[Struct]]) -> Iterator[str]:
    """Every record that something refers to, those that they refer to as well."""
    done: set[str] = set()
    while missing := sorted(seen.keys() - done):
        for name in missing:
            done.add(name)
            yield f"### {name}\n\n{_said(seen[name])}\n"
            yield _table(seen[name], seen)


def _said(cls: type[Struct]) -> str:
    """The first paragraph of a struct's docstring, in one line."""
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _names(cls: type[Struct]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(cls)]


def _beyond(cls: type[Struct], base: type[Struct]) -> list[str]:
    return [name for name in _names(cls) if name not in _names(base)]


def _table(
    cls: type[Struct],
    seen: dict[str, type[Struct]],
    meanings: list[str] | None = None,
    only: list[str] | None = None,
) -> str:
    """The fields of a struct as a table; records that it refers to go into `seen`."""
    fields = {field.name: field for field in msgspec.structs.fields(cls)}
    names = list(fields) if only is None else only
    if not names:
        return "No fields of its own.\n"
    host = HOST_FIELDS.get(cls, {})
    head = ["field", "type", "default"] + (["meaning"] if meanings is not None else [])
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for index, name in enumerate(names):
        field = fields[name]
        other = host.get(name, name)
        shown = f"`{field.encode_name}`" + (f" ({pascal(other)})" if other and other != name else "")
        cells = [shown, _type(field.type, seen), _default(field)]
        if meanings is not None:
            cells.append(meanings[index])
        lines.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def _default(field: msgspec.structs.FieldInfo) -> str:
    if field.default is UNSET:
        return "absent"
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
        return "its defaults" if isinstance(value, Struct) else f"`{_written(value)}`"
    return "" if field.default is msgspec.NODEFAULT else f"`{_written(field.default)}`"


def _written(value: Any) -> str:
    """A default as JSON has it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(_written(one) for one in value)}]"
    if isinstance(value, enum.Enum):
        return str(value.value)
    return "{}" if isinstance(value, Struct) else msgspec.json.encode(value).decode()


def _type(annotation: Any, seen: dict[str, type[Struct]]) -> str:
    if annotation in WORDS:
        return WORDS[annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        kept = [one for one in arguments if one not in (type(None), UnsetType)]
        words = " or ".join(dict.fromkeys(_type(one, seen) for one in kept))
        return f"{words}?" if type(None) in arguments else words
    if origin is list or origin is tuple:
        return f"list of {_type(arguments[0], seen)}"
    if origin is dict:
        return f"map of {_type(arguments[1], seen)} by {_type(arguments[0], seen)}"
    if origin is typing.Annotated:
        return _type(arguments[0], seen)
    if origin is typing.Literal:
        return " or ".join(f"`{one}`" for one in arguments)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return f"[{annotation.__name__}](#words)"
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        if not issubclass(annotation, r.Reply):
            seen[annotation.__name__] = annotation
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return getattr(annotation, "__name__", str(annotation))


def _enums() -> str:
    """Every enum of the wire: names with their ordinals where the host has some, else words alone."""
    lines = ["| name | words |", "|---|---|"]
    found = [cls for cls in vars(enums).values() if isinstance(cls, type) and issubclass(cls, enum.Enum) and list(cls)]
    for cls in sorted(found, key=lambda one: one.__name__):
        if issubclass(cls, enums.WireEnum):
            words = ", ".join(f"{member.value} {member.ordinal}" for member in cls)
        else:
            words = ", ".join(f"`{member.value}`" for member in cls)
        lines.append(f"| {cls.__name__} | {words} |")
    return "\n".join(lines) + "\n"
