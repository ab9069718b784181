"""What there is: `vrambroker models`, `info`, `scan`, `search`, `register`, `unregister`, `edit`.

What executes and shows them is imported when the command runs.
"""

# ruff: noqa: PLC0415, PLR0917 - commands import what they run when they run; typer reads options from parameters

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli.options import Json, ModelId, key_and_value, parsed
from protocol.enums import DeviceType, HashDepth, ModelSearchField, ModelSortBy, ModelStatus, ModelType, SortDirection

CLEARED = "-"
"""What stands for taking back what was written, where an option wants a word."""


def models(
    context: typer.Context,
    query: Annotated[str | None, typer.Argument(help="Words to look for.")] = None,
    model_type: Annotated[ModelType | None, typer.Option("--type", case_sensitive=False)] = None,
    model_status: Annotated[ModelStatus | None, typer.Option("--status", case_sensitive=False)] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="Resident on this device.")] = "",
    sort: Annotated[ModelSortBy, typer.Option("--sort", case_sensitive=False)] = ModelSortBy.Name,
    descending: Annotated[bool, typer.Option("--desc", help="Greatest first.")] = False,
    page: Annotated[int, typer.Option(min=1)] = 1,
    page_size: Annotated[int, typer.Option(min=1, max=1000)] = 50,
    rejected: Annotated[bool, typer.Option("--rejected", help="The files that were refused, and why.")] = False,
    as_json: Json = False,
) -> None:
    """List the catalogue."""
    from cli.browsing import models as show
    from cli.browsing import rejected as show_rejected
    from protocol.commands import ListModels

    (show_rejected if rejected else show)(
        context.obj,
        as_json,
        ListModels(
            search_query=query,
            model_type=model_type,
            status=model_status,
            device_id=device,
            sort_by=sort,
            sort_direction=SortDirection.Descending if descending else SortDirection.Ascending,
            page=page,
            page_size=page_size,
            include_details=True,
            rejected=rejected or not as_json,
        ),
    )


def info(context: typer.Context, model_id: ModelId, as_json: Json = False) -> None:
    """Show all that is known of one model."""
    from cli.browsing import info as show
    from protocol.commands import GetModelInfo

    show(context.obj, as_json, GetModelInfo(model_id=model_id, include_performance=True))


def scan(
    context: typer.Context,
    roots: Annotated[list[str] | None, typer.Argument(help="Folders within the configured roots.")] = None,
    depth: Annotated[HashDepth, typer.Option("--hash", help="How files are identified.")] = HashDepth.FAST,
    as_json: Json = False,
) -> None:
    """Look for models beneath the configured roots."""
    from cli.working import scan as execute
    from protocol.commands import ScanModels

    execute(context.obj, as_json, ScanModels(roots=roots or [], hash=depth))


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="Words, their beginnings, or a hash's; all models if none.")] = "",
    fields: Annotated[list[ModelSearchField] | None, typer.Option("--in", case_sensitive=False)] = None,
    types: Annotated[list[ModelType] | None, typer.Option("--type", case_sensitive=False)] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="All of these.")] = None,
    rating: Annotated[float | None, typer.Option("--min-rating", min=0, max=5)] = None,
    memory: Annotated[str | None, typer.Option("--max-memory", help="Such as 8GiB.")] = None,
    devices: Annotated[list[DeviceType] | None, typer.Option("--on", case_sensitive=False)] = None,
    sort: Annotated[ModelSortBy, typer.Option("--sort", case_sensitive=False)] = ModelSortBy.Relevance,
    page: Annotated[int, typer.Option(min=1)] = 1,
    page_size: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """Find models by what is said of them."""
    from cli.screens.catalogue import search_view
    from cli.session import session
    from client.answers import as_kind
    from protocol.commands import SearchModels
    from protocol.replies import SearchModelsReply

    command = SearchModels(
        query=query,
        search_fields=fields or list(ModelSearchField),
        model_types=types or [],
        tags=tags or [],
        min_rating=rating,
        max_memory_bytes=parsed(_bytes, memory, "--max-memory") if memory else None,
        compatible_devices=devices or [],
        sort_by=sort,
        page=page,
        page_size=page_size,
    )
    with session(context.obj, as_json) as this:
        answer = as_kind(this.call(command), SearchModelsReply)
        this.answer(answer, search_view(answer.reply))


def _bytes(text: str) -> int:
    """Bytes of `8GiB`. Raises ValueError."""
    from settings.config import size
    from settings.file import ConfigError

    try:
        return size(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None


def register(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="A file or folder beneath a model root, as the broker sees it.")],
    model_id: Annotated[str, typer.Option("--id", help="Made from its name if none.")] = "",
    model_type: Annotated[str, typer.Option("--type", help="Where the file itself tells none.")] = "",
    as_json: Json = False,
) -> None:
    """Add one model to the catalogue."""
    from cli.screens.catalogue import registered_view
    from cli.session import session
    from client.answers import as_kind
    from protocol.commands import RegisterModel
    from protocol.replies import RegisterModelReply

    command = RegisterModel(model_path=path, model_id=model_id, model_type=model_type)
    with session(context.obj, as_json) as this:
        answer = as_kind(this.call(command), RegisterModelReply)
        this.answer(answer, registered_view(answer.reply))


def unregister(context: typer.Context, model_id: ModelId, as_json: Json = False) -> None:
    """Take a model out of the catalogue; its files stay, and scans pass them over."""
    from cli.screens.catalogue import unregistered_view
    from cli.session import session
    from client.answers import as_kind
    from protocol.commands import UnregisterModel
    from protocol.replies import UnregisterModelReply

    with session(context.obj, as_json) as this:
        answer = as_kind(this.call(UnregisterModel(model_id=model_id)), UnregisterModelReply)
        this.answer(answer, unregistered_view(answer.reply))


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
    header: Annotated[bool, typer.Option("--write-header", help="Into the model's own file too.")] = False,
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
    if not metadata and not header:
        raise typer.BadParameter("say what to change; --help lists the options")
    with session(context.obj, as_json) as this:
        command = UpdateMetadata(model_id=model_id, metadata=metadata, revision=revision, write_header=header)
        answer = as_kind(this.call(command), UpdateMetadataReply)
        this.answer(answer, update_view(answer.reply))
