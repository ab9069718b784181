"""`vrambroker edit`: what people say of a model.

What executes and shows it is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.options import Json, ModelId, key_and_value, parsed

CLEARED = "-"
"""What stands for taking back what was written, where an option wants a word."""


def edit(
    context: typer.Context,
    model_id: ModelId,
    name: Annotated[
        str | None, typer.Option("--name", help="'-' gives the file's own word back, here and below.")
    ] = None,
    version: Annotated[str | None, typer.Option("--version")] = None,
    author: Annotated[str | None, typer.Option("--author")] = None,
    model_license: Annotated[str | None, typer.Option("--license")] = None,
    description: Annotated[str | None, typer.Option("--description")] = None,
    rating: Annotated[str | None, typer.Option("--rating", help="0 to 5.")] = None,
    source_url: Annotated[str | None, typer.Option("--source-url")] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="All of its tags; '-' alone for the file's.")] = None,
    custom: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A custom key; null ends it.")
    ] = None,
    revision: Annotated[int | None, typer.Option("--revision", help="Only if the model is still at it.")] = None,
    as_json: Json = False,
) -> None:
    """Change what is said of a model."""
    from cli.screens.catalogue import update_view
    from cli.session import session
    from client.answers import as_kind
    from protocol.commands import UpdateMetadata
    from protocol.replies import UpdateMetadataReply

    words = {
        "name": name,
        "version": version,
        "author": author,
        "license": model_license,
        "description": description,
        "source_url": source_url,
    }
    metadata: dict[str, Any] = {
        key: None if word == CLEARED else word for key, word in words.items() if word is not None
    }
    if rating is not None:
        metadata["rating"] = None if rating == CLEARED else parsed(float, rating, "--rating")
    if tags:
        metadata["tags"] = None if tags == [CLEARED] else tags
    if custom:
        metadata["custom"] = dict(parsed(key_and_value, text, "--set") for text in custom)
    if not metadata:
        raise typer.BadParameter("say what to change; --help lists the options")
    with session(context.obj, as_json) as this:
        answer = as_kind(
            this.call(UpdateMetadata(model_id=model_id, metadata=metadata, revision=revision)), UpdateMetadataReply
        )
        this.answer(answer, update_view(answer.reply))
