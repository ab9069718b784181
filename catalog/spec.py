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


def name_of(model: ModelFile) -> str:
    """The title that the file states, else its name without the ending."""
    title = model.metadata.get("modelspec.title", "").strip()
    file_name = Path(model.path).name
    plain = file_name.removesuffix(SUFFIX).removesuffix(".safetensors")
    return title or plain


def description_of(model: ModelFile) -> str:
    return model.metadata.get("modelspec.description", "")


def metadata_of(model: ModelFile) -> ModelMetadata:
    """Author, license, date and tags that the file states."""
    stated = model.metadata
    tags = [tag.strip() for tag in stated.get("modelspec.tags", "").split(",")]
    return ModelMetadata(
        author=stated.get("modelspec.author", ""),
        license=stated.get("modelspec.license", ""),
        tags=[tag for tag in tags if tag],
        created_date=_date(stated.get("modelspec.date", "")),
    )


def _date(text: str) -> datetime | None:
    """An ISO 8601 date or time as UTC; None for anything else."""
    try:
        stated = datetime.fromisoformat(text.strip())
        return stated.replace(tzinfo=UTC) if stated.tzinfo is None else stated.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
