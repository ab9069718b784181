"""JSON Schema of the whole protocol, made from the structs themselves."""

from __future__ import annotations

from typing import Any

import msgspec

from protocol import enums
from protocol.actions import ACTIONS
from protocol.dialect import HOST_FIELDS, pascal
from protocol.events import EVENTS
from protocol.replies import AcceptedReply, FailedReply, ProgressReply


def schema() -> dict[str, Any]:
    """`commands`, `replies` and `events` by name, referring to `$defs`.

    Enums carry `x-ordinals`, properties `x-host-name`.
    """
    commands = [action.command for action in ACTIONS.values()]
    replies = [action.reply for action in ACTIONS.values()]
    partial = [AcceptedReply, ProgressReply, FailedReply]
    types = [*commands, *replies, *partial, *EVENTS.values()]
    references, definitions = msgspec.json.schema_components(types, ref_template="#/$defs/{name}")
    by_type = dict(zip(types, references, strict=True))
    _annotate(definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "vrambroker",
        "commands": {name: by_type[action.command] for name, action in ACTIONS.items()},
        "replies": {
            **{name: by_type[action.reply] for name, action in ACTIONS.items()},
            **{f"({cls.__name__})": by_type[cls] for cls in partial},
        },
        "lanes": {name: action.lane.value for name, action in ACTIONS.items()},
        "timeouts_seconds": {name: action.timeout_seconds for name, action in ACTIONS.items()},
        "aliases": {name: list(action.aliases) for name, action in ACTIONS.items() if action.aliases},
        "events": {name: by_type[event] for name, event in EVENTS.items()},
        "$defs": definitions,
    }


def _annotate(definitions: dict[str, Any]) -> None:
    renamed = {cls.__name__: names for cls, names in HOST_FIELDS.items()}
    for name, definition in definitions.items():
        cls = getattr(enums, name, None)
        if isinstance(cls, type) and issubclass(cls, enums.WireEnum):
            definition["x-ordinals"] = {member.value: member.ordinal for member in cls}
        for wire_name, prop in definition.get("properties", {}).items():
            host_name = renamed.get(name, {}).get(wire_name, wire_name)
            if host_name is not None:
                prop["x-host-name"] = pascal(host_name)
