"""The fields that each command takes beside its subject, typed for the helper methods of both clients.

`wait_for_completion` is not among them: a command that is not waited for is sent by `Client.accept`.
"""

from __future__ import annotations

from typing import Any, TypedDict

from protocol.commands import (
    Conventions,
    FileValidationContext,
    LoraUse,
    MemoryPressureContext,
)
from protocol.enums import (
    BenchmarkType,
    CoordinationMode,
    Delivery,
    DeviceType,
    HashDepth,
    ImageFormat,
    LoadingStrategy,
    LoadPriority,
    ModelOptimizationTarget,
    ModelSearchField,
    ModelSortBy,
    ModelStatus,
    ModelType,
    OptimizationLevel,
    OptimizationTargetWord,
    SortDirection,
    ValidationLevel,
)
from protocol.records import ModelBenchmarkConfiguration, ModelLoadConfiguration


class Common(TypedDict, total=False):
    """What any command may carry."""

    request_id: str | None
    device_id: str
    priority: LoadPriority
    timeout_seconds: float | None
    conventions: Conventions | None


class HelloFields(Common, total=False):
    """Of `hello`."""

    statistics: bool


class TargetFields(Common, total=False):
    """Of `cancel`, `get_result` and `explain`."""

    prefix: bool


class ListModelsFields(Common, total=False):
    """Of `list_models`."""

    model_type: ModelType | None
    status: ModelStatus | None
    include_details: bool
    include_metrics: bool
    search_query: str | None
    sort_by: ModelSortBy
    sort_direction: SortDirection
    page: int
    page_size: int
    rejected: bool


class GetModelInfoFields(Common, total=False):
    """Of `get_model_info`."""

    include_metadata: bool
    include_components: bool
    include_requirements: bool
    include_performance: bool


class SearchModelsFields(Common, total=False):
    """Of `search_models`."""

    search_fields: list[ModelSearchField]
    model_types: list[ModelType]
    tags: list[str]
    min_rating: float | None
    max_memory_bytes: int | None
    compatible_devices: list[DeviceType]
    sort_by: ModelSortBy
    sort_direction: SortDirection | None
    page: int
    page_size: int


class UpdateMetadataFields(Common, total=False):
    """Of `update_metadata`."""

    tags: list[str] | None
    description: str | None
    validate: bool
    revision: int | None
    write_header: bool


class ScanModelsFields(Common, total=False):
    """Of `scan_models`."""

    roots: list[str]
    hash: HashDepth


class RegisterModelFields(Common, total=False):
    """Of `register_model`."""

    model_id: str
    model_type: str
    metadata: dict[str, Any]


class StatusFields(Common, total=False):
    """Of `get_vram_model_status`."""

    include_memory_usage: bool
    include_performance: bool
    include_sessions: bool
    coordination_mode: CoordinationMode | None


class LoadFields(Common, total=False):
    """Of `load_model` and `plan`; `keep_alive` in seconds."""

    configuration: ModelLoadConfiguration | None
    force: bool
    model_path: str
    config_path: str
    model_type: str
    loading_strategy: LoadingStrategy
    cache_optimized: bool | None
    coordination_mode: CoordinationMode | None
    keep_alive: float
    pin: bool


class UnloadFields(Common, total=False):
    """Of `unload_model`."""

    force: bool
    clear_cache: bool


class ValidateFields(Common, total=False):
    """Of `validate_model`."""

    check_memory: bool
    check_compute: bool
    check_driver: bool
    estimate_performance: bool
    model_path: str
    model_type: str
    validation_level: ValidationLevel
    file_validation_context: FileValidationContext | None


class OptimizeFields(Common, total=False):
    """Of `optimize_model`."""

    target: ModelOptimizationTarget | None
    optimization_target: OptimizationTargetWord | None
    level: OptimizationLevel
    parameters: dict[str, Any]
    save_optimized: bool
    optimized_model_name: str | None
    coordination_mode: CoordinationMode | None
    memory_pressure_context: MemoryPressureContext | None


class BenchmarkFields(Common, total=False):
    """Of `benchmark_model`."""

    configuration: ModelBenchmarkConfiguration
    warmup_runs: int
    benchmark_runs: int
    save_results: bool
    track_memory_usage: bool
    benchmark_type: BenchmarkType


class ComponentFields(Common, total=False):
    """Of `load_component` and `unload_component`."""

    path: str
    source_model_id: str
    name: str
    scale: float


class GenerateFields(Common, total=False):
    """Of `generate`; sizes in pixels."""

    negative_prompt: str
    width: int | None
    height: int | None
    steps: int | None
    guidance_scale: float | None
    seed: int | None
    num_images: int
    scheduler: str
    loras: list[LoraUse] | None
    strength: float | None
    image_format: ImageFormat
    delivery: Delivery
    load_if_needed: bool
    allow_degraded: bool
