"""What a model's own header says of it: ModelSpec keys as the host's names.

Decides which header key is which field (https://github.com/Stability-AI/ModelSpec). Says nothing that the file does
not.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from modelfiles.model import ModelFile
from modelfiles.profiles import SUFFIX
from protocol.records import ModelMetadata
from protocol.tolerant import moment_of

LONGEST_LINE, LONGEST_DESCRIPTION, MOST_TAGS = 500, 8000, 100
"""Characters of a file's words and how many tags of it are shown: a list has a thousand models."""


def name_of(model: ModelFile) -> str:
    """The title that the file states, else its name without the ending."""
    file_name = Path(model.path).name
    plain = file_name.removesuffix(SUFFIX).removesuffix(".safetensors")
    return title_of(model) or plain[:LONGEST_LINE]


def title_of(model: ModelFile) -> str:
    """The title that the file states; "" where it states none."""
    return model.metadata.get("modelspec.title", "").strip()[:LONGEST_LINE]


def description_of(model: ModelFile) -> str:
    return model.metadata.get("modelspec.description", "")[:LONGEST_DESCRIPTION]


def metadata_of(model: ModelFile) -> ModelMetadata:
    """Author, license, date and tags that the file states."""
    stated = model.metadata
    tags = [tag.strip() for tag in stated.get("modelspec.tags", "").split(",")]
    return ModelMetadata(
        author=stated.get("modelspec.author", "")[:LONGEST_LINE],
        license=stated.get("modelspec.license", "")[:LONGEST_LINE],
        tags=[tag[:LONGEST_LINE] for tag in tags if tag][:MOST_TAGS],
        created_date=_date(stated.get("modelspec.date", "")),
    )


def _date(text: str) -> datetime | None:
    """An ISO 8601 date or time as UTC; None for anything else."""
    try:
        return moment_of(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
