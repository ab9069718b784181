"""Commands that read: models, info, schema."""

from __future__ import annotations

from typing import Any

import msgspec

from cli.screens import catalogue
from cli.session import USAGE, fail, orderly, print_json, session
from client.answers import as_kind
from protocol.commands import GetModelInfo, ListModels
from protocol.replies import GetModelInfoReply, ListModelsReply

PARTS = ("commands", "replies", "events")


def models(endpoint: str | None, as_json: bool, command: ListModels) -> None:
    """Show a page of the catalogue."""
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(command), ListModelsReply)
        this.answer(answer, catalogue.models_view(answer.reply))


def rejected(endpoint: str | None, as_json: bool, command: ListModels) -> None:
    """Show the files that scans found and refused."""
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(command), ListModelsReply)
        this.answer(answer, catalogue.rejected_view(answer.reply.rejected or []))


def info(endpoint: str | None, as_json: bool, command: GetModelInfo) -> None:
    """Show all that is known of one model."""
    with session(endpoint, as_json) as this:
        answer = as_kind(this.call(command), GetModelInfoReply)
        this.answer(answer, catalogue.info_view(answer.reply))


def schema(name: str | None) -> None:
    """Print the JSON Schema of the protocol, or of one action, event or record with what it refers to."""
    from protocol.schema import schema as whole  # noqa: PLC0415 - only this command pays for it

    with orderly():
        document = whole() if name is None else named(whole(), name)
        print_json(msgspec.json.encode(document))


def named(document: dict[str, Any], name: str) -> dict[str, Any]:
    """The parts of the schema under one name, and the definitions that they need."""
    found = {part: document[part][name] for part in PARTS if name in document[part]}
    if name in document["$defs"]:
        found["record"] = {"$ref": f"#/$defs/{name}"}
    if not found:
        fail(f"the protocol has no '{name}': name an action, an event or a record", USAGE)
    needed: dict[str, Any] = {}
    _collect(found, document["$defs"], needed)
    return {"$schema": document["$schema"], "title": name, **found, "$defs": needed}


def _collect(value: Any, definitions: dict[str, Any], needed: dict[str, Any]) -> None:
    if isinstance(value, dict):
        reference = value.get("$ref")
        if isinstance(reference, str):
            key = reference.rsplit("/", 1)[-1]
            if key not in needed:
                needed[key] = definitions[key]
                _collect(definitions[key], definitions, needed)
        for item in value.values():
            _collect(item, definitions, needed)
    elif isinstance(value, list):
        for item in value:
            _collect(item, definitions, needed)
