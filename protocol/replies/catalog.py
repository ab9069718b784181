"""Replies of the catalogue."""

from __future__ import annotations

from datetime import datetime

from msgspec import UNSET, UnsetType

from protocol.enums import (
    ModelStatus,
    ModelType,
)
from protocol.errors import ErrorCode
from protocol.records import (
    ModelCompatibilityInfo,
    ModelDeviceStatus,
    ModelInfo,
    ModelSearchResult,
    ModelUsageStats,
    Record,
)
from protocol.replies.base import Reply


class ListModelsReply(Reply, frozen=True, kw_only=True):
    """The host's ListModelsResponse."""

    models: list[ModelInfo]
    total_count: int
    page: int
    page_size: int
    total_pages: int
    type_distribution: dict[ModelType, int]
    status_distribution: dict[ModelStatus, int]
    rejected: list[RefusedFile] | UnsetType = UNSET
    """What scans found and refused, where it was asked for."""


class GetModelInfoReply(Reply, frozen=True, kw_only=True):
    """The host's GetModelResponse."""

    model_id: str = ""
    model: ModelInfo
    compatibility: ModelCompatibilityInfo
    usage_stats: ModelUsageStats | None = None
    device_status: list[ModelDeviceStatus] = []


class SearchModelsReply(Reply, frozen=True, kw_only=True):
    """The host's SearchModelsResponse."""

    results: list[ModelSearchResult]
    query: str
    total_count: int
    page: int
    page_size: int
    total_pages: int
    search_time_ms: float
    facets: dict[str, dict[str, int]]


class UpdateMetadataReply(Reply, frozen=True, kw_only=True):
    """The host's UpdateModelMetadataResponse."""

    model_id: str
    updated_fields: list[str]
    validation_results: dict[str, str] = {}
    updated_model: ModelInfo | None = None
    updated_at: datetime
    revision: int


class RejectedFile(Record, frozen=True, kw_only=True):
    """A file that a scan would not take."""

    path: str
    code: ErrorCode
    reason: str


class RefusedFile(RejectedFile, frozen=True, kw_only=True):
    """The same, under the id that it would have had."""

    model_id: str


class ScanModelsReply(Reply, frozen=True, kw_only=True):
    """What a scan changed: model ids, and the files refused."""

    added: list[str]
    updated: list[str]
    missing: list[str]
    rejected: list[RejectedFile]


class UnregisterModelReply(Reply, frozen=True, kw_only=True):
    """A model that is known no more. `left_out`: scans pass its path over; false where another id has the path too."""

    model_id: str
    file_path: str
    left_out: bool


class RegisterModelReply(Reply, frozen=True, kw_only=True):
    """The model as registered."""

    model_id: str
    model: ModelInfo
