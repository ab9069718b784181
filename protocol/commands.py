"""Every command of the wire as a struct: the union of the seed's wire fields and the host's request types.

A strict decode of the snake_case spelling is the fast path; other spellings come through `protocol.tolerant`.
Defaults are the host's. Limits on values are in `protocol.checks`.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct, field

from protocol.enums import (
    BenchmarkType,
    ComponentRole,
    CoordinationMode,
    Delivery,
    DeviceType,
    EnumForm,
    HashDepth,
    ImageFormat,
    LoadingStrategy,
    LoadPriority,
    ModelOptimizationTarget,
    ModelSearchField,
    ModelSortBy,
    ModelStatus,
    ModelType,
    Naming,
    OptimizationLevel,
    OptimizationTargetWord,
    SortDirection,
    ValidationLevel,
)
from protocol.records import ModelBenchmarkConfiguration, ModelLoadConfiguration, SentRecord


class Attachment(SentRecord, frozen=True, kw_only=True):
    """An opaque frame that follows the payload; `bytes` is its length."""

    name: str
    media_type: str = "application/octet-stream"
    bytes: int


class Conventions(SentRecord, frozen=True, kw_only=True):
    """How the client wants replies spelled; a part that is absent is left as it is."""

    naming: Naming | None = None
    enums: EnumForm | None = None


class FileValidationContext(SentRecord, frozen=True, kw_only=True):
    """What the host believes about a file; what differs becomes a warning."""

    file_exists: bool | None = None
    file_size: int | None = None
    model_type: str | None = None
    cache_available: bool | None = None


class MemoryPressureContext(SentRecord, frozen=True, kw_only=True):
    """The host's own memory: utilization in percent, its cache in MiB."""

    cache_utilization: float | None = None
    memory_pressure_detected: bool = False
    model_in_cache: bool = False
    cache_size_mb: float | None = None


class LoraUse(SentRecord, frozen=True, kw_only=True):
    """A LoRA for one picture."""

    name: str
    scale: float = 1.0


class Command(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="action"):
    """What any command may carry; `timeout_seconds` None means the action's default."""

    request_id: str | None = None
    device_id: str = ""
    priority: LoadPriority = LoadPriority.Normal
    timeout_seconds: float | None = None
    wait_for_completion: bool = True
    stream_progress: bool = False
    conventions: Conventions | None = None
    attachments: list[Attachment] = []


class ModelCommand(Command, frozen=True, kw_only=True):
    """A command about one model."""

    model_id: str = ""


class Ping(Command, frozen=True, kw_only=True, tag="ping"):
    """Is the broker alive?"""


class Hello(Command, frozen=True, kw_only=True, tag="hello"):
    """Versions, limits and actions; sets the connection's conventions."""

    statistics: bool = False
    """With what the broker counted since it began."""


class ListDevices(Command, frozen=True, kw_only=True, tag="list_devices"):
    """Every device, or one."""


class ListModels(Command, frozen=True, kw_only=True, tag="list_models"):
    """A page of the catalogue."""

    model_type: ModelType | None = None
    status: ModelStatus | None = None
    include_details: bool = False
    include_metrics: bool = False
    search_query: str | None = None
    sort_by: ModelSortBy = ModelSortBy.Name
    sort_direction: SortDirection = SortDirection.Ascending
    page: int = 1
    page_size: int = 20
    rejected: bool = False
    """The files that scans found and refused, too."""


class GetModelInfo(ModelCommand, frozen=True, kw_only=True, tag="get_model_info"):
    """All that is known of one model."""

    include_metadata: bool = True
    include_components: bool = True
    include_requirements: bool = True
    include_performance: bool = False


class SearchModels(Command, frozen=True, kw_only=True, tag="search_models"):
    """Ranked full-text search."""

    query: str = ""
    search_fields: list[ModelSearchField] = field(
        default_factory=lambda: [ModelSearchField.Name, ModelSearchField.Description]
    )
    model_types: list[ModelType] = []
    tags: list[str] = []
    min_rating: float | None = None
    max_memory_bytes: int | None = None
    compatible_devices: list[DeviceType] = []
    sort_by: ModelSortBy = ModelSortBy.Relevance
    sort_direction: SortDirection | None = None
    page: int = 1
    page_size: int = 20


class UpdateMetadata(ModelCommand, frozen=True, kw_only=True, tag="update_metadata"):
    """Patch what people say of a model."""

    metadata: dict[str, Any] = {}
    tags: list[str] | None = None
    description: str | None = None
    validate: bool = True
    revision: int | None = None
    write_header: bool = False


class ScanModels(Command, frozen=True, kw_only=True, tag="scan_models"):
    """Look for models beneath the configured roots."""

    roots: list[str] = []
    hash: HashDepth = HashDepth.FAST


class RegisterModel(ModelCommand, frozen=True, kw_only=True, tag="register_model"):
    """Add one file or folder to the catalogue."""

    model_path: str = ""
    model_type: str = ""
    metadata: dict[str, Any] = {}


class UnregisterModel(ModelCommand, frozen=True, kw_only=True, tag="unregister_model"):
    """Take one model out of the catalogue; its files stay."""


class GetVramModelStatus(ModelCommand, frozen=True, kw_only=True, tag="get_vram_model_status"):
    """What is held where; one model or all."""

    include_memory_usage: bool = True
    include_performance: bool = True
    include_sessions: bool = False
    coordination_mode: CoordinationMode | None = None


class LoadFields(ModelCommand, frozen=True, kw_only=True):
    """The fields of a load; `keep_alive` in seconds, -1 until evicted."""

    configuration: ModelLoadConfiguration | None = None
    force: bool = False
    model_path: str = ""
    config_path: str = ""
    model_type: str = ""
    loading_strategy: LoadingStrategy = LoadingStrategy.DEFAULT
    cache_optimized: bool | None = None
    coordination_mode: CoordinationMode | None = None
    keep_alive: float = -1.0
    pin: bool = False

    @property
    def host_holds_file(self) -> bool:
        """Whether the host says that it keeps the file in its own memory."""
        return bool(self.cache_optimized) or self.coordination_mode is CoordinationMode.RAM_TO_VRAM


class LoadModel(LoadFields, frozen=True, kw_only=True, tag="load_model"):
    """Bring a model onto a device."""


class Plan(LoadFields, frozen=True, kw_only=True, tag="plan"):
    """A load without effect."""


class UnloadModel(ModelCommand, frozen=True, kw_only=True, tag="unload_model"):
    """Take a model off its device; `force_unload` is the seed's name for `force`."""

    force: bool = False
    force_unload: bool = False
    clear_cache: bool = False


class PinModel(ModelCommand, frozen=True, kw_only=True, tag="pin_model"):
    """Protect a model from eviction and expiry."""


class UnpinModel(ModelCommand, frozen=True, kw_only=True, tag="unpin_model"):
    """Lift a pin."""


class ValidateModel(ModelCommand, frozen=True, kw_only=True, tag="validate_model"):
    """Check a file and whether it can run on a device."""

    check_memory: bool = True
    check_compute: bool = True
    check_driver: bool = True
    estimate_performance: bool = False
    model_path: str = ""
    model_type: str = ""
    validation_level: ValidationLevel = ValidationLevel.STANDARD
    file_validation_context: FileValidationContext | None = None


class OptimizeModel(ModelCommand, frozen=True, kw_only=True, tag="optimize_model"):
    """Make a model faster, smaller or better, measured."""

    target: ModelOptimizationTarget | None = None
    optimization_target: OptimizationTargetWord | None = None
    level: OptimizationLevel = OptimizationLevel.Balanced
    parameters: dict[str, Any] = {}
    save_optimized: bool = True
    optimized_model_name: str | None = None
    coordination_mode: CoordinationMode | None = None
    memory_pressure_context: MemoryPressureContext | None = None


class BenchmarkModel(ModelCommand, frozen=True, kw_only=True, tag="benchmark_model"):
    """Time a model on a device."""

    configuration: ModelBenchmarkConfiguration = field(default_factory=ModelBenchmarkConfiguration)
    warmup_runs: int = 3
    benchmark_runs: int = 10
    save_results: bool = True
    track_memory_usage: bool = True
    benchmark_type: BenchmarkType = BenchmarkType.PERFORMANCE


class LoadComponent(ModelCommand, frozen=True, kw_only=True, tag="load_component"):
    """Replace or add one part of a resident model."""

    component: ComponentRole | None = None
    path: str = ""
    source_model_id: str = ""
    name: str = ""
    scale: float = 1.0


class UnloadComponent(ModelCommand, frozen=True, kw_only=True, tag="unload_component"):
    """Restore a model's own part, or remove an added one."""

    component: ComponentRole | None = None
    path: str = ""
    source_model_id: str = ""
    name: str = ""
    scale: float = 1.0


class ListComponents(ModelCommand, frozen=True, kw_only=True, tag="list_components"):
    """The parts of a resident model."""


class Generate(ModelCommand, frozen=True, kw_only=True, tag="generate"):
    """Draw images; one attachment and `strength` make it image-to-image.

    `width`, `height` (pixels), `steps` and `guidance_scale` None: the model's own defaults.
    """

    prompt: str | None = None
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    num_images: int = 1
    scheduler: str = ""
    loras: list[LoraUse] | None = None
    strength: float | None = None
    image_format: ImageFormat = ImageFormat.PNG
    delivery: Delivery = Delivery.ATTACHMENT
    load_if_needed: bool = True
    allow_degraded: bool = True


class TargetCommand(Command, frozen=True, kw_only=True):
    """A command about another command."""

    target_request_id: str = ""
    prefix: bool = False
    """`target_request_id` is the beginning of the one id meant: for people who type it."""


class Cancel(TargetCommand, frozen=True, kw_only=True, tag="cancel"):
    """Stop a command, whatever its stage."""


class GetResult(TargetCommand, frozen=True, kw_only=True, tag="get_result"):
    """A command's stored final reply or its live state."""


class Explain(TargetCommand, frozen=True, kw_only=True, tag="explain"):
    """Why a command went where it went."""


class DrainDevice(Command, frozen=True, kw_only=True, tag="drain_device"):
    """Give a device no new work."""


class ResumeDevice(Command, frozen=True, kw_only=True, tag="resume_device"):
    """Give a drained device work again."""


class RestartWorker(Command, frozen=True, kw_only=True, tag="restart_worker"):
    """End a device's worker and start a fresh one: once what it runs has ended, or at once."""

    force: bool = False


AnyCommand = (
    Ping
    | Hello
    | ListDevices
    | ListModels
    | GetModelInfo
    | SearchModels
    | UpdateMetadata
    | ScanModels
    | RegisterModel
    | UnregisterModel
    | GetVramModelStatus
    | LoadModel
    | Plan
    | UnloadModel
    | PinModel
    | UnpinModel
    | ValidateModel
    | OptimizeModel
    | BenchmarkModel
    | LoadComponent
    | UnloadComponent
    | ListComponents
    | Generate
    | Cancel
    | GetResult
    | Explain
    | DrainDevice
    | ResumeDevice
    | RestartWorker
)
