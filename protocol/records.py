"""The host's record types under their wire names, shared by requests and replies.

Bytes are integers, times are milliseconds as floats unless the name says seconds, datetimes are UTC.
A number that nothing measured is 0 and its path stands in the reply's `not_measured`.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct, field

from protocol.enums import (
    ComponentStatus,
    ComponentType,
    DeviceType,
    ModelLoadingStatus,
    ModelPrecision,
    ModelStatus,
    ModelType,
    PrecisionMode,
)


class Record(Struct, frozen=True, kw_only=True):
    """What every record of the wire is: immutable, fields by name."""


class SentRecord(Record, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A record that clients send: the strict decoder drops none of its keys in silence."""


class ModelMemoryOptimization(SentRecord, frozen=True, kw_only=True):
    """Ways to hold less of a model; `memory_fraction` is a share of the device, 0 for no bound."""

    enable_attention_slicing: bool = False
    enable_cpu_offloading: bool = False
    enable_model_splitting: bool = False
    memory_fraction: float = 0.0


class ModelPerformanceOptimization(SentRecord, frozen=True, kw_only=True):
    """Ways to run a model faster."""

    enable_tensor_rt: bool = False
    enable_onnx: bool = False
    enable_compilation: bool = False
    enable_flash_attention: bool = False


class ModelLoadConfiguration(SentRecord, frozen=True, kw_only=True):
    """How a model is to be loaded."""

    precision: ModelPrecision = ModelPrecision.Auto
    memory_optimization: ModelMemoryOptimization = field(default_factory=ModelMemoryOptimization)
    performance_optimization: ModelPerformanceOptimization = field(default_factory=ModelPerformanceOptimization)
    parameters: dict[str, Any] = {}


class ModelBenchmarkConfiguration(SentRecord, frozen=True, kw_only=True):
    """What a benchmark runs: sizes in pixels, images in a batch, denoising steps."""

    input_width: int = 512
    input_height: int = 512
    batch_size: int = 1
    inference_steps: int = 20
    test_batch_sizes: bool = False
    test_resolutions: bool = False
    parameters: dict[str, Any] = {}


class ModelCompatibilityInfo(Record, frozen=True, kw_only=True):
    """Where and how a model can run."""

    compatible_devices: list[DeviceType] = []
    required_compute_capability: str = ""
    min_driver_version: str = ""
    supported_frameworks: list[str] = []
    supported_optimizations: list[str] = []
    platform_compatibility: dict[str, bool] = {}


class ModelUsageStats(Record, frozen=True, kw_only=True):
    """Real use of a model: counts, milliseconds, uses a day, the rating 0-5."""

    total_usage_count: int = 0
    last_used: datetime | None = None
    average_inference_time: float = 0.0
    usage_frequency: float = 0.0
    device_usage_distribution: dict[DeviceType, int] = {}
    user_rating: float | None = None


class ModelMemoryUsage(Record, frozen=True, kw_only=True):
    """A model's bytes on a device by purpose (the host's type of responses).

    Model: all its bytes on the device; Weights: parameters and buffers among them; Activations: measured peak of its
    last run less weights, 0 before one; Cache: its copy in the worker's RAM tier; Total = Model + Activations;
    Peak: highest measured; Efficiency = Weights / Peak."""

    model_memory_bytes: int = 0
    weights_memory_bytes: int = 0
    activations_memory_bytes: int = 0
    cache_memory_bytes: int = 0
    total_memory_bytes: int = 0
    peak_memory_bytes: int = 0
    memory_efficiency: float = 0.0


class ModelDeviceStatus(Record, frozen=True, kw_only=True):
    """A model on one device."""

    device_id: str = ""
    device_name: str = ""
    status: ModelStatus = ModelStatus.Unknown
    loaded_at: datetime | None = None
    memory_usage: ModelMemoryUsage | None = None
    active_sessions_count: int = 0


class ValidationResult(Record, frozen=True, kw_only=True):
    """One part of a validation; `score` 0-1."""

    passed: bool = False
    score: float = 0.0
    message: str = ""
    details: dict[str, Any] = {}


class ModelValidationResults(Record, frozen=True, kw_only=True):
    """What each part of a validation found."""

    memory_validation: ValidationResult = field(default_factory=ValidationResult)
    compute_validation: ValidationResult = field(default_factory=ValidationResult)
    driver_validation: ValidationResult = field(default_factory=ValidationResult)
    platform_validation: ValidationResult = field(default_factory=ValidationResult)
    feature_validations: dict[str, ValidationResult] = {}


class ModelPerformanceEstimation(Record, frozen=True, kw_only=True):
    """An estimate: milliseconds, images a second, bytes, watts, confidence 0-1."""

    estimated_inference_time: float = 0.0
    estimated_throughput: float = 0.0
    estimated_memory_usage: int = 0
    estimated_power_consumption: float = 0.0
    confidence_score: float = 0.0
    performance_category: str = ""


class ModelOptimizationResults(Record, frozen=True, kw_only=True):
    """What an optimisation changed; percentages 0-100."""

    optimizations_applied: list[str] = []
    original_size_bytes: int = 0
    optimized_size_bytes: int = 0
    size_reduction_percentage: float = 0.0
    estimated_performance_improvement: float = 0.0
    quality_impact_score: float = 0.0
    optimization_efficiency: float = 0.0
    detailed_metrics: dict[str, float] = {}


class InferenceTimeStats(Record, frozen=True, kw_only=True):
    """Milliseconds of one run of the whole batch."""

    average: float = 0.0
    minimum: float = 0.0
    maximum: float = 0.0
    standard_deviation: float = 0.0
    percentile95: float = 0.0
    percentile99: float = 0.0


class ThroughputStats(Record, frozen=True, kw_only=True):
    """Images a second."""

    average: float = 0.0
    peak: float = 0.0
    sustained: float = 0.0
    efficiency: float = 0.0


class ModelBenchmarkResults(Record, frozen=True, kw_only=True):
    """What a benchmark measured."""

    overall_score: float = 0.0
    inference_time_stats: InferenceTimeStats = field(default_factory=InferenceTimeStats)
    throughput_stats: ThroughputStats = field(default_factory=ThroughputStats)
    quality_metrics: dict[str, float] = {}
    resource_utilization: dict[str, float] = {}
    benchmark_configuration: dict[str, Any] = {}


class ModelComponent(Record, frozen=True, kw_only=True):
    """One part of a model; sizes in bytes."""

    id: str = ""
    name: str = ""
    type: ComponentType = ComponentType.Unknown
    file_path: str = ""
    size: int = 0
    status: ComponentStatus = ComponentStatus.Unknown
    is_cached_in_ram: bool = False
    is_loaded_in_vram: bool = False
    loaded_on_devices: list[str] = []
    dependencies: list[str] = []
    memory_usage: int = 0


class ModelRequirements(Record, frozen=True, kw_only=True):
    """What a model needs: bytes, compute capability, driver versions."""

    min_vram: int = 0
    recommended_vram: int = 0
    min_ram: int = 0
    supported_device_types: list[DeviceType] = []
    min_compute_capability: float = 0.0
    required_driver_versions: dict[str, str] = {}


class ModelMetadata(Record, frozen=True, kw_only=True):
    """What people say of a model; `custom` holds keys that the host does not know."""

    author: str = ""
    license: str = ""
    tags: list[str] = []
    created_date: datetime | None = None
    source_url: str | None = None
    training_parameters: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    custom: dict[str, Any] = {}


class DevicePerformance(Record, frozen=True, kw_only=True):
    """Measured runs on one device: milliseconds, images a second."""

    average_inference_time: float = 0.0
    throughput: float = 0.0
    inference_count: int = 0


class ModelPerformance(Record, frozen=True, kw_only=True):
    """Measured loads and runs: milliseconds, images a second; keyed by device id."""

    average_loading_time: float = 0.0
    average_inference_time: float = 0.0
    inference_throughput: float = 0.0
    total_inferences: int = 0
    device_performance: dict[str, DevicePerformance] = {}


class BatchSizeLimits(Record, frozen=True, kw_only=True):
    """Images in a batch."""

    min: int = 1
    max: int = 1
    recommended: int = 1


class ImageResolution(Record, frozen=True, kw_only=True):
    """Pixels."""

    width: int = 0
    height: int = 0


class ModelCapabilities(Record, frozen=True, kw_only=True):
    """What a model can be asked for."""

    supported_inference_types: list[str] = []
    max_resolution: ImageResolution = field(default_factory=ImageResolution)
    supported_precisions: list[PrecisionMode] = []
    supports_lora: bool = False
    supports_control_net: bool = False
    supports_inpainting: bool = False
    supports_image2_image: bool = False
    batch_limits: BatchSizeLimits = field(default_factory=BatchSizeLimits)


class ModelTierUsage(Record, frozen=True, kw_only=True):
    """A model's bytes by tier (the host's `ModelMemoryUsage` inside ModelInfo)."""

    ram_usage: int = 0
    vram_usage: int = 0
    peak_usage: int = 0
    component_usage: dict[str, int] = {}
    device_usage: dict[str, int] = {}


class ModelInfo(Record, frozen=True, kw_only=True):
    """All that the catalogue says of a model.

    `size_bytes`, `checksum` and `updated_at` are the seed's names; `revision` grows with every change.
    """

    id: str = ""
    name: str = ""
    type: ModelType = ModelType.Unknown
    version: str = ""
    description: str = ""
    file_path: str = ""
    file_size: int = 0
    hash: str = ""
    status: ModelStatus = ModelStatus.Unknown
    loading_status: ModelLoadingStatus = ModelLoadingStatus.NotLoaded
    components: list[ModelComponent] = []
    capabilities: ModelCapabilities = field(default_factory=ModelCapabilities)
    requirements: ModelRequirements = field(default_factory=ModelRequirements)
    metadata: ModelMetadata = field(default_factory=ModelMetadata)
    loaded_on_devices: list[str] = []
    memory_usage: ModelTierUsage = field(default_factory=ModelTierUsage)
    performance: ModelPerformance = field(default_factory=ModelPerformance)
    last_updated: datetime
    size_bytes: int = 0
    checksum: str = ""
    updated_at: datetime
    revision: int = 0


class ModelSearchResult(Record, frozen=True, kw_only=True):
    """One hit of a search."""

    model: ModelInfo
    relevance_score: float = 0.0
    highlights: dict[str, str] = {}
    device_compatibility: dict[str, bool] = {}
