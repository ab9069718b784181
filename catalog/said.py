"""What is said of a model: by its file, and over that by those who wrote of it.

Decides which word stands. What a file says is `catalog.spec`'s, what may be written `catalog.written`'s.
"""

from __future__ import annotations

from catalog import spec
from catalog.entry import Entry
from protocol.records import ModelMetadata


def name_of(entry: Entry) -> str:
    return _chosen(entry.written.name, spec.name_of(entry.file))


def version_of(entry: Entry) -> str:
    return entry.written.version or ""


def description_of(entry: Entry) -> str:
    return _chosen(entry.written.description, spec.description_of(entry.file))


def metadata_of(entry: Entry) -> ModelMetadata:
    """Author, license, tags, dates, origin and what else was written."""
    written, stated = entry.written, spec.metadata_of(entry.file)
    return ModelMetadata(
        author=_chosen(written.author, stated.author),
        license=_chosen(written.license, stated.license),
        tags=stated.tags if written.tags is None else written.tags,
        created_date=written.created_date or stated.created_date,
        source_url=written.source_url,
        training_parameters=written.training_parameters or {},
        configuration=written.configuration or {},
        custom=written.custom,
    )


def _chosen(written: str | None, stated: str) -> str:
    return stated if written is None else written
