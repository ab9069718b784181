"""What is said of a model: by what lies beside it, over that by its file, and over that by those who wrote of it.

Decides which word stands. What a file says is `catalog.spec`'s, what lies beside it `catalog.notes`'s, what may be
written `catalog.written`'s.
"""

from __future__ import annotations

from typing import Any

from catalog import spec
from catalog.entry import Entry
from modelfiles import schedulers
from protocol.records import ModelMetadata


def name_of(entry: Entry) -> str:
    """What was written, else the header's title, else a sidecar's, else the file's name."""
    return _chosen(entry.written.name, spec.title_of(entry.file) or entry.notes.said.name or spec.name_of(entry.file))


def version_of(entry: Entry) -> str:
    return entry.written.version or ""


def description_of(entry: Entry) -> str:
    return _chosen(entry.written.description, spec.description_of(entry.file) or entry.notes.said.description)


def metadata_of(entry: Entry) -> ModelMetadata:
    """Author, license, tags, dates, origin and what else is known; each by the first that says it."""
    written, stated, notes = entry.written, spec.metadata_of(entry.file), entry.notes
    found = {
        "trigger_words": notes.said.trigger_words,
        "base_model": notes.said.base_model,
        "preview_path": notes.preview_path,
    }
    return ModelMetadata(
        author=_chosen(written.author, stated.author or notes.said.author),
        license=_chosen(written.license, stated.license or notes.said.license),
        tags=(stated.tags or notes.said.tags) if written.tags is None else written.tags,
        created_date=written.created_date or stated.created_date,
        source_url=written.source_url or notes.said.source_url or None,
        training_parameters=notes.training if written.training_parameters is None else written.training_parameters,
        configuration=configuration_of(entry) | (written.configuration or {}),
        custom={key: value for key, value in found.items() if value} | written.custom,
    )


def configuration_of(entry: Entry) -> dict[str, Any]:
    """How a file is drawn: a family that ModelType has no word for, what it was trained to predict, by what."""
    file = entry.file
    found = {"family": file.family, "prediction_type": file.says.prediction, "packed": file.packed}
    stated: dict[str, Any] = {key: value for key, value in found.items() if value}
    stated |= {"zero_terminal_snr": True} if file.says.zero_snr else {}
    names = schedulers.of_model(file)
    return stated | ({"schedulers": names} if names else {})


def _chosen(written: str | None, stated: str) -> str:
    return stated if written is None else written
