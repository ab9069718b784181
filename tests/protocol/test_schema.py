"""The schema describes the whole protocol and is JSON Schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from protocol import enums
from protocol.actions import ACTIONS, ALIASES
from protocol.enums import WireEnum
from protocol.events import EVENTS
from protocol.schema import schema

SCHEMA = schema()
DEFINITIONS: dict[str, Any] = SCHEMA["$defs"]
PRIMITIVES = {"object", "array", "string", "integer", "number", "boolean", "null"}
SUBSCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """A schema and every schema within it."""
    yield node
    for child in node.get("properties", {}).values():
        yield from nodes(child)
    for key in ("items", "additionalProperties", "propertyNames"):
        if isinstance(node.get(key), dict):
            yield from nodes(node[key])
    for key in SUBSCHEMAS:
        for child in node.get(key, []):
            yield from nodes(child)


ALL = [node for definition in DEFINITIONS.values() for node in nodes(definition)]


def test_the_schema_is_json() -> None:
    assert msgspec.json.decode(msgspec.json.encode(SCHEMA)) == SCHEMA


def test_every_reference_leads_to_a_definition() -> None:
    tops = [*SCHEMA["commands"].values(), *SCHEMA["replies"].values(), *SCHEMA["events"].values()]
    references = [node["$ref"] for node in (*ALL, *tops) if "$ref" in node]
    assert references
    assert all(reference.removeprefix("#/$defs/") in DEFINITIONS for reference in references)


def test_every_node_is_json_schema() -> None:
    for node in ALL:
        kinds = node.get("type", [])
        assert set([kinds] if isinstance(kinds, str) else kinds) <= PRIMITIVES, node
        assert set(node.get("required", [])) <= set(node.get("properties", {})), node
        assert len(set(map(str, node.get("enum", [])))) == len(node.get("enum", [])), node
        assert "enum" not in node or node["enum"], node
        assert all(node[key] for key in SUBSCHEMAS if key in node), node


def test_every_command_reply_and_event_is_there() -> None:
    assert list(SCHEMA["commands"]) == list(ACTIONS)
    assert set(SCHEMA["replies"]) == {*ACTIONS, "(AcceptedReply)", "(ProgressReply)", "(FailedReply)"}
    assert set(SCHEMA["events"]) == set(EVENTS)
    assert {alias for names in SCHEMA["aliases"].values() for alias in names} == set(ALIASES) - set(ACTIONS)
    assert SCHEMA["timeouts_seconds"] == {name: action.timeout_seconds for name, action in ACTIONS.items()}
    assert SCHEMA["lanes"] == {name: action.lane.value for name, action in ACTIONS.items()}


@pytest.mark.parametrize("name", ACTIONS)
def test_every_command_has_its_fields_and_its_action(name: str) -> None:
    definition = DEFINITIONS[SCHEMA["commands"][name]["$ref"].removeprefix("#/$defs/")]
    assert set(definition["properties"]) == {"action", *ACTIONS[name].command.__struct_fields__}
    assert definition["properties"]["action"]["enum"] == [name]
    assert definition["required"] == ["action"]


def test_every_enum_of_the_schema_has_its_ordinals() -> None:
    found = {name for name, definition in DEFINITIONS.items() if "x-ordinals" in definition}
    assert {"LoadPriority", "ModelPrecision", "ModelType", "ModelStatus", "OptimizationLevel"} <= found
    for name in found:
        cls: type[WireEnum] = getattr(enums, name)
        assert DEFINITIONS[name]["x-ordinals"] == {member.value: member.ordinal for member in cls}
        assert sorted(DEFINITIONS[name]["x-ordinals"]) == sorted(DEFINITIONS[name]["enum"])


def test_every_property_has_the_hosts_name() -> None:
    load = DEFINITIONS["LoadModelReply"]["properties"]
    assert load["load_time_ms"]["x-host-name"] == "LoadTimeMs"
    assert load["memory"]["x-host-name"] == "MemoryUsage"
    assert "x-host-name" not in load["memory_usage"]
    assert DEFINITIONS["ModelRequirements"]["properties"]["min_vram"]["x-host-name"] == "MinVRAM"
