"""Models as the catalogue tells them: `models`, `info` and `scan`."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text

from cli.screens.grid import Grid, facts
from cli.screens.residency import brief, headline
from cli.units import ago, duration, size
from protocol.enums import ModelStatus
from protocol.records import ModelInfo
from protocol.replies import (
    GetModelInfoReply,
    ListModelsReply,
    RefusedFile,
    RegisterModelReply,
    ScanModelsReply,
    SearchModelsReply,
    UnregisterModelReply,
    UpdateMetadataReply,
)

STATUSES = {
    ModelStatus.Loaded: "green",
    ModelStatus.Loading: "cyan",
    ModelStatus.Missing: "red",
    ModelStatus.Corrupted: "red",
    ModelStatus.Error: "red",
}


def models_view(reply: ListModelsReply) -> RenderableType:
    """A page of models and what all of them amount to."""
    made = Grid(
        *("MODEL", "TYPE", "SIZE", "PRECISION", "STATUS", "DEVICES", "NAME", "TAGS"),
        right=("SIZE",),
        spare=("TAGS", "NAME", "PRECISION", "DEVICES"),
    )
    for model in reply.models:
        tags = ", ".join(model.metadata.tags)
        devices = ", ".join(model.loaded_on_devices)
        own = next((mode.value for mode in model.capabilities.supported_precisions), "-")
        status = status_text(model.status)
        made.add_row(model.id, model.type.value, size(model.file_size), own, status, devices, model.name, tags)
    types = ", ".join(f"{count} {kind.value}" for kind, count in reply.type_distribution.items() if count)
    foot = f"page {reply.page} of {reply.total_pages}, {reply.total_count} models" + (f": {types}" if types else "")
    lines: list[RenderableType] = [made, Text(), Text(foot, style="dim")]
    if reply.rejected:
        lines.append(Text(f"{len(reply.rejected)} files were refused: vrambroker models --rejected", style="yellow"))
    return Group(*lines)


def rejected_view(files: list[RefusedFile]) -> RenderableType:
    """Files that were refused: the id that each would have, where it lies and why."""
    if not files:
        return Text("no file was refused")
    lines: list[RenderableType] = []
    for file in files:
        lines.append(Text.assemble((file.code.value, "bold yellow"), "  ", (file.model_id or "-", "bold")))
        lines.append(facts(("file", file.path), ("reason", file.reason)))
    return Group(*lines, Text(), Text(f"{len(files)} refused; scan again once they are mended", style="dim"))


def status_text(status: ModelStatus) -> Text:
    """A model's status in its colour."""
    return Text(status.value, style=STATUSES.get(status, ""))


def info_view(reply: GetModelInfoReply) -> RenderableType:
    """All that is known of one model."""
    model = reply.model
    about = model.metadata
    rows: list[tuple[str, RenderableType]] = [
        ("name", model.name),
        ("version", model.version),
        ("type", model.type.value),
        ("status", status_text(model.status)),
        ("size", size(model.file_size)),
        ("file", model.file_path),
        ("hash", model.hash),
        ("needs", f"{size(model.requirements.min_vram)} VRAM, {size(model.requirements.recommended_vram)} recommended"),
        ("about", model.description),
        ("author", about.author),
        ("license", about.license),
        ("tags", ", ".join(about.tags)),
        ("source", about.source_url or ""),
        ("devices", ", ".join(model.loaded_on_devices)),
        ("precisions", ", ".join(mode.value for mode in model.capabilities.supported_precisions)),
        *((key.replace("_", " "), brief_words(value)) for key, value in about.custom.items()),
        ("usage", usage_text(reply)),
        ("revision", str(model.revision)),
    ]
    shown = [(name, value) for name, value in rows if value != ""]
    return Group(Text(model.id, style="bold"), facts(*shown), *_components(model))


def brief_words(value: object) -> str:
    """A custom value: a list's items between commas, anything else in few characters."""
    return ", ".join(map(str, value)) if isinstance(value, list) else brief(value)


def usage_text(reply: GetModelInfoReply) -> str:
    """Uses, their average time and the rating."""
    usage = reply.usage_stats
    rating = f", rated {usage.user_rating:g} of 5" if usage is not None and usage.user_rating is not None else ""
    if usage is None or not usage.total_usage_count:
        return f"not used yet{rating}"
    times = f"{usage.total_usage_count} times, last {ago(usage.last_used)}"
    return f"{times}, {duration(usage.average_inference_time)} a run{rating}"


def _components(model: ModelInfo) -> list[RenderableType]:
    if not model.components:
        return []
    made = Grid("COMPONENT", "TYPE", "SIZE", "STATUS", "DEVICES", right=("SIZE",), spare=("DEVICES", "STATUS"))
    for part in model.components:
        where = ", ".join(part.loaded_on_devices)
        made.add_row(Text(part.name or part.id), part.type.value, size(part.size), part.status.value, where)
    return [Text(), made]


def search_view(reply: SearchModelsReply) -> RenderableType:
    """A page of what was found: each model, where it matched, and the counts over all."""
    made = Grid(
        *("MODEL", "NAME", "TYPE", "SIZE", "DEVICES", "TAGS", "MATCH"),
        right=("SIZE",),
        spare=("TAGS", "NAME", "DEVICES"),
        loose=("MATCH",),
    )
    for found in reply.results:
        model = found.model
        matches = [marked(text) for text in found.highlights.values()]
        match = Text("  ").join(matches[:2])
        tags = ", ".join(model.metadata.tags)
        devices = ", ".join(model.loaded_on_devices)
        made.add_row(model.id, model.name, model.type.value, size(model.file_size), devices, tags, match)
    counts = ", ".join(f"{count} {kind}" for kind, count in reply.facets.get("type", {}).items())
    foot = f"page {reply.page} of {reply.total_pages}, {reply.total_count} found in {duration(reply.search_time_ms)}"
    return Group(made, Text(), Text(f"{foot}: {counts}" if counts else foot, style="dim"))


def marked(text: str) -> Text:
    """A highlight, its words between <em> and </em> in bold."""
    shown = Text()
    for piece in text.split("<em>"):
        word, closed, rest = piece.partition("</em>")
        shown.append(word, style="bold" if closed else "")
        shown.append(rest)
    return shown


def update_view(reply: UpdateMetadataReply) -> RenderableType:
    """What an edit changed, and the model as it is now."""
    changed = ", ".join(reply.updated_fields) or "nothing"
    rows: list[tuple[str, RenderableType]] = [("revision", str(reply.revision))]
    if reply.updated_model is not None:
        about = reply.updated_model.metadata
        rows += [("name", reply.updated_model.name), ("tags", ", ".join(about.tags)), ("author", about.author)]
    return Group(headline("changed", f"{changed} of {reply.model_id}"), facts(*(row for row in rows if row[1] != "")))


def registered_view(reply: RegisterModelReply) -> RenderableType:
    """The model as it is known from now on."""
    model = reply.model
    about = facts(("type", model.type.value), ("size", size(model.file_size)), ("path", model.file_path))
    return Group(headline("registered", reply.model_id), about)


def unregistered_view(reply: UnregisterModelReply) -> RenderableType:
    """What was taken out, and whether a scan would find it again."""
    path = "left alone, and passed over by scans" if reply.left_out else "still known under another id"
    return Group(headline("unregistered", reply.model_id), facts((reply.file_path, path)))


def scan_view(reply: ScanModelsReply) -> RenderableType:
    """What a scan changed, and what it would not take."""
    changes = (("added", reply.added), ("updated", reply.updated), ("missing", reply.missing))
    rows: list[tuple[str, RenderableType]] = [(name, ", ".join(ids) or "-") for name, ids in changes]
    refused = [Text(f"{item.path}: {item.code.value}, {item.reason}", style="yellow") for item in reply.rejected]
    return Group(facts(*rows), *refused)
