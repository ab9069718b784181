"""Every reply of the wire as a struct in snake_case; `protocol.dialect` renders the other spellings.

Fields that `wire.md` calls the seed's flat fields stand beside the host's rich fields. A phase of `timing` that did not
run is absent.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

from protocol.commands import Attachment, Conventions
from protocol.enums import (
    CancelOutcome,
    CoordinationMode,
    DeviceKind,
    DeviceState,
    JobState,
    LoadSource,
    ModelPrecision,
    ModelStatus,
    ModelType,
    ReplyState,
    Severity,
    Tier,
)
from protocol.errors import ErrorCode, ErrorInfo, Recovery
from protocol.records import (
    ModelBenchmarkResults,
    ModelCompatibilityInfo,
    ModelComponent,
    ModelDeviceStatus,
    ModelInfo,
    ModelMemoryUsage,
    ModelOptimizationResults,
    ModelPerformance,
    ModelPerformanceEstimation,
    ModelSearchResult,
    ModelUsageStats,
    ModelValidationResults,
    Record,
)
from protocol.telemetry import MemoryPressure, Telemetry


class Timing(Record, frozen=True, kw_only=True):
    """Milliseconds of a command: in the queue, in all, and of each phase that ran."""

    queue_ms: float = 0.0
    total_ms: float = 0.0
    read_ms: float | UnsetType = UNSET
    build_ms: float | UnsetType = UNSET
    promote_ms: float | UnsetType = UNSET
    free_ms: float | UnsetType = UNSET
    encode_ms: float | UnsetType = UNSET
    denoise_ms: float | UnsetType = UNSET
    decode_ms: float | UnsetType = UNSET
    per_step_ms: float | UnsetType = UNSET
    header_ms: float | UnsetType = UNSET
    tensors_ms: float | UnsetType = UNSET
    hash_ms: float | UnsetType = UNSET
    shapes_ms: float | UnsetType = UNSET
    before_ms: float | UnsetType = UNSET
    steps_ms: float | UnsetType = UNSET
    after_ms: float | UnsetType = UNSET
    save_ms: float | UnsetType = UNSET
    warmup_ms: float | UnsetType = UNSET
    runs_ms: float | UnsetType = UNSET
    query_ms: float | UnsetType = UNSET


class Reply(Struct, frozen=True, kw_only=True):
    """What every reply has. `not_measured` maps the path of a field that has no figure to the reason."""

    request_id: str | None
    action: str
    success: bool = True
    state: ReplyState = ReplyState.COMPLETED
    message: str = ""
    warnings: list[str] = []
    error: ErrorInfo | None = None
    timing: Timing = field(default_factory=Timing)
    not_measured: dict[str, str] = {}


class ModelReply(Reply, frozen=True, kw_only=True):
    """A reply about a model on a device; `memory_pressure` None where no device answered."""

    device_id: str = ""
    model_id: str = ""
    memory_pressure: MemoryPressure | None = None


class FailedReply(ModelReply, frozen=True, kw_only=True):
    """The final reply of a command that failed or was cancelled."""

    validation_results: dict[str, str] | UnsetType = UNSET


class AcceptedReply(ModelReply, frozen=True, kw_only=True):
    """The one reply of a command that is not waited for."""


class ProgressReply(ModelReply, frozen=True, kw_only=True):
    """How far a running command has come: denoising steps, or bytes of a load."""

    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None
    stage: str | UnsetType = UNSET
    bytes_done: int | UnsetType = UNSET
    bytes_total: int | UnsetType = UNSET


class PingReply(Reply, frozen=True, kw_only=True):
    """The broker is alive."""

    time: datetime
    epoch: str


class Limits(Record, frozen=True, kw_only=True):
    """The limits in force; bytes unless the name says otherwise."""

    queued_per_client: int = 1024
    queued_per_device: int = 4096
    queued_total: int = 16384
    payload_bytes: int = 1 << 20
    payload_depth: int = 64
    attachments: int = 16
    attachments_bytes: int = 128 << 20
    page_size: int = 1000
    steps: int = 10_000
    num_images: int = 64
    min_side: int = 8
    max_side: int = 8192
    side_multiple: int = 8
    prompt_bytes: int = 16 << 10
    benchmark_runs: int = 10_000
    warmup_runs: int = 10_000
    request_id_chars: int = 128


class HelloReply(Reply, frozen=True, kw_only=True):
    """Who answers, what it can do and how it spells."""

    server: str
    version: str
    protocol: int = 1
    epoch: str
    actions: list[str]
    limits: Limits
    conventions: Conventions


class HeldModel(Record, frozen=True, kw_only=True):
    """A model in `list_devices`."""

    model_id: str
    tier: Tier
    bytes: int
    precision: ModelPrecision
    pinned: bool
    sessions: int
    last_used: datetime


class RunningCommand(Record, frozen=True, kw_only=True):
    """What a device does now."""

    request_id: str
    action: str
    model_id: str
    started_at: datetime
    step: int | None = None
    steps: int | None = None


class DeviceInfo(Record, frozen=True, kw_only=True):
    """A device as `list_devices` shows it; sizes in bytes."""

    device_id: str
    uuid: str
    name: str
    kind: DeviceKind
    state: DeviceState
    total_vram: int
    used_vram: int
    free_vram: int
    models: list[HeldModel] = []
    memory_pressure: MemoryPressure | None = None
    telemetry: Telemetry | None = None
    queue_depth: int = 0
    running: RunningCommand | None = None
    pid: int | None = None
    generation: int = 0
    restarts: int = 0
    uptime_seconds: float = 0.0


class ListDevicesReply(Reply, frozen=True, kw_only=True):
    """Every device asked for."""

    devices: list[DeviceInfo]


class ListModelsReply(Reply, frozen=True, kw_only=True):
    """The host's ListModelsResponse."""

    models: list[ModelInfo]
    total_count: int
    page: int
    page_size: int
    total_pages: int
    type_distribution: dict[ModelType, int]
    status_distribution: dict[ModelStatus, int]


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


class ScanModelsReply(Reply, frozen=True, kw_only=True):
    """What a scan changed: model ids, and the files refused."""

    added: list[str]
    updated: list[str]
    missing: list[str]
    rejected: list[RejectedFile]


class RegisterModelReply(Reply, frozen=True, kw_only=True):
    """The model as registered."""

    model_id: str
    model: ModelInfo


class StatusEntry(Record, frozen=True, kw_only=True):
    """One model on one device, or on disk alone with `device_id` null."""

    model_id: str
    device_id: str | None
    tier: Tier
    tiers: list[Tier]
    bytes: int
    precision: ModelPrecision
    pinned: bool = False
    sessions: int = 0
    last_used: datetime | None = None
    health: float = 1.0
    telemetry: Telemetry | None = None


class RamTier(Record, frozen=True, kw_only=True):
    """A worker's RAM tier in bytes."""

    bytes: int
    budget_bytes: int
    released_bytes: int = 0


class IgnoredHint(Record, frozen=True, kw_only=True):
    """A hint without effect, and why."""

    hint: str
    reason: str


class Coordination(Record, frozen=True, kw_only=True):
    """What became of the host's hints."""

    mode: CoordinationMode | None
    honoured: list[str] = []
    ignored: list[IgnoredHint] = []
    ram_tier: RamTier | None = None


class GetVramModelStatusReply(ModelReply, frozen=True, kw_only=True):
    """The seed's status and the host's GetModelStatusResponse."""

    models: list[StatusEntry]
    used_vram: int
    available_vram: int
    total_vram: int
    status: ModelStatus
    status_description: str
    memory_usage: ModelMemoryUsage | None = None
    performance_metrics: ModelPerformance | None = None
    active_sessions: list[str] | None = None
    health_score: float
    last_updated: datetime
    devices: list[DeviceInfo]
    coordination: Coordination | None = None


class OptionOutcome(Record, frozen=True, kw_only=True):
    """What became of one configuration flag."""

    option: str
    requested: Any
    applied: bool
    reason: str | None = None
    evidence: dict[str, Any] | None = None


class LoadCache(Record, frozen=True, kw_only=True):
    """Where a load's bytes came from; `page_cache_ratio` None where it was not read from disk."""

    source: LoadSource
    page_cache_ratio: float | None = None


class LoadModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's LoadModelResponse.

    `memory_usage` (bytes) exists in snake_case alone; `memory` is the host's MemoryUsage.
    """

    memory_usage: int
    memory_added: int
    load_time: float
    load_time_ms: float
    memory: ModelMemoryUsage
    optimizations_applied: list[str]
    loaded_at: datetime
    options: list[OptionOutcome]
    cache: LoadCache
    coordination: Coordination | None = None


class UnloadModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's UnloadModelResponse; `memory_freed` is VRAM alone, `ram_freed` what left the RAM tier, in bytes."""

    memory_freed: int
    ram_freed: int = 0
    unload_time_ms: float
    memory_freed_bytes: int
    cache_cleared: bool
    unloaded_at: datetime


class PinModelReply(ModelReply, frozen=True, kw_only=True):
    """The pin as it stands now."""

    pinned: bool


class UnpinModelReply(PinModelReply, frozen=True, kw_only=True):
    """The pin as it stands now."""


class ValidationIssue(Record, frozen=True, kw_only=True):
    """One finding of a validation."""

    severity: Severity
    code: ErrorCode
    message: str
    field: str | None = None
    recovery: list[Recovery] = []


class ValidateModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's ValidateModelResponse."""

    is_valid: bool
    validation_details: dict[str, Any]
    issues: list[ValidationIssue]
    is_compatible: bool
    validation_results: ModelValidationResults
    compatibility_score: float
    performance_estimation: ModelPerformanceEstimation | None = None
    recommendations: list[str]


class OptimizeModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's OptimizeModelResponse; times in ms, memory in bytes."""

    optimization_time: float
    optimization_time_ms: float
    memory_freed: int
    vram_usage_after: int
    results: ModelOptimizationResults
    optimized_model: ModelInfo | None = None
    optimized_at: datetime
    options: list[OptionOutcome]
    coordination: Coordination | None = None


class BenchmarkModelReply(ModelReply, frozen=True, kw_only=True):
    """The host's BenchmarkModelResponse; inference times in ms, `total_time` in seconds, memory in bytes."""

    avg_inference_time: float
    min_inference_time: float
    max_inference_time: float
    throughput: float
    memory_peak: int
    memory_avg: int
    total_time: float
    results: ModelBenchmarkResults
    benchmark_duration_seconds: float
    performance_metrics: ModelPerformance
    memory_usage: ModelMemoryUsage
    benchmarked_at: datetime


class ComponentReply(ModelReply, frozen=True, kw_only=True):
    """A component after a change; `replaced` names what stood there before."""

    component: ModelComponent
    memory_added: int
    replaced: ModelComponent | None = None


class LoadComponentReply(ComponentReply, frozen=True, kw_only=True):
    """The component that is in use now."""


class UnloadComponentReply(ComponentReply, frozen=True, kw_only=True):
    """The component that is in use now."""


class HeldComponent(ModelComponent, frozen=True, kw_only=True):
    """A component as `list_components` shows it; `shared_with` are model ids."""

    tier: Tier
    bytes: int
    shared_with: list[str] = []


class ListComponentsReply(ModelReply, frozen=True, kw_only=True):
    """Every part of a model."""

    components: list[HeldComponent]


class GeneratedImage(Record, frozen=True, kw_only=True):
    """One image: `path` or base64 `data` where the delivery is not by attachment."""

    name: str
    media_type: str
    width: int
    height: int
    bytes: int
    sha256: str
    path: str | None = None
    data: str | None = None


class GenerateReply(ModelReply, frozen=True, kw_only=True):
    """Images, the seed that makes them again, and the steps done."""

    seed: int
    images: list[GeneratedImage]
    steps_done: int
    attachments: list[Attachment] = []


class CancelReply(Reply, frozen=True, kw_only=True):
    """What a cancel found."""

    target_request_id: str
    outcome: CancelOutcome


class JobProgress(Record, frozen=True, kw_only=True):
    """How far an assigned command has come; None before its first step."""

    step: int | None = None
    steps: int | None = None
    eta_ms: float | None = None


class GetResultReply(Reply, frozen=True, kw_only=True):
    """A stored final reply, or the live state of a command that is on its way."""

    target_request_id: str
    job_state: JobState
    result: Any = None
    position: int | None = None
    device_id: str | None = None
    progress: JobProgress | None = None
    attachments: list[Attachment] = []


class PlannedEviction(Record, frozen=True, kw_only=True):
    """A model that would leave, or left, and the bytes that this frees."""

    model_id: str
    bytes: int


class Candidate(Record, frozen=True, kw_only=True):
    """A device that a command could go to; a lower score (estimated seconds) is better."""

    device_id: str
    score: float | None = None
    terms: dict[str, float] = {}
    excluded_because: str | None = None


class WaitRecord(Record, frozen=True, kw_only=True):
    """Time that a command spent waiting for one reason."""

    reason: str
    ms: float


class ExplainReply(Reply, frozen=True, kw_only=True):
    """Why a command went where it went."""

    target_request_id: str
    candidates: list[Candidate]
    chosen: str | None = None
    evictions: list[PlannedEviction] = []
    waits: list[WaitRecord] = []
    passes: int = 0


class PlanReply(ModelReply, frozen=True, kw_only=True):
    """What a load would do."""

    fits: bool
    bytes_needed: int
    peak_bytes: int
    evictions: list[PlannedEviction] = []
    estimated_ms: float
    candidates: list[Candidate] = []


class AdminReply(Reply, frozen=True, kw_only=True):
    """A device after an administrator's command."""

    device_id: str
    device_state: DeviceState


class DrainDeviceReply(AdminReply, frozen=True, kw_only=True):
    """The device takes no new work."""


class ResumeDeviceReply(AdminReply, frozen=True, kw_only=True):
    """The device takes work."""


class RestartWorkerReply(AdminReply, frozen=True, kw_only=True):
    """The device's worker is being replaced."""
