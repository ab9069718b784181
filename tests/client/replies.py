"""Replies as a broker gives them, for the scripted router."""

from __future__ import annotations

from datetime import UTC, datetime

from protocol.commands import Attachment, Conventions
from protocol.enums import (
    CancelOutcome,
    DeviceKind,
    DeviceState,
    LoadSource,
    ModelPrecision,
    ModelStatus,
    ModelType,
    PressureLevel,
    ReplyState,
    Severity,
    Tier,
)
from protocol.errors import ErrorCode, ErrorInfo, Recovery
from protocol.records import (
    InferenceTimeStats,
    ModelBenchmarkResults,
    ModelCompatibilityInfo,
    ModelComponent,
    ModelInfo,
    ModelMemoryUsage,
    ModelOptimizationResults,
    ModelPerformance,
    ModelPerformanceEstimation,
    ModelSearchResult,
    ModelValidationResults,
    ThroughputStats,
    ValidationResult,
)
from protocol.replies import (
    BenchmarkModelReply,
    CancelReply,
    DeviceInfo,
    FailedReply,
    GeneratedImage,
    GenerateReply,
    GetModelInfoReply,
    GetVramModelStatusReply,
    HeldModel,
    HelloReply,
    Limits,
    ListDevicesReply,
    ListModelsReply,
    LoadCache,
    LoadModelReply,
    OptimizeModelReply,
    OptionOutcome,
    PingReply,
    PinModelReply,
    ProgressReply,
    RegisterModelReply,
    Reply,
    RunningCommand,
    ScanModelsReply,
    SearchModelsReply,
    StatusEntry,
    Timing,
    UnloadModelReply,
    UnregisterModelReply,
    UpdateMetadataReply,
    ValidateModelReply,
    ValidationIssue,
)
from protocol.telemetry import MemoryPressure
from worker.devices.base import Raster
from worker.pictures import plain_png

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GIB = 1 << 30
PNG = plain_png(Raster(width=8, height=8, rgb=bytes(192)))
PRESSURE = MemoryPressure(
    level=PressureLevel.ELEVATED,
    used_bytes=7 * GIB,
    reclaimable_bytes=GIB,
    total_bytes=8 * GIB,
    utilization=0.875,
    pressure=0.81,
)


def device(device_id: str = "cpu:0", state: DeviceState = DeviceState.READY) -> DeviceInfo:
    return DeviceInfo(
        device_id=device_id,
        uuid=f"CPU-{device_id}",
        name="[a] processor",
        kind=DeviceKind.CPU,
        state=state,
        total_vram=8 * GIB,
        used_vram=7 * GIB,
        free_vram=GIB,
        models=[
            HeldModel(
                model_id="tiny-sd15",
                tier=Tier.VRAM,
                bytes=6 * GIB,
                precision=ModelPrecision.Float16,
                pinned=True,
                sessions=1,
                last_used=NOW,
            )
        ],
        memory_pressure=PRESSURE,
        running=RunningCommand(
            request_id="r", action="generate", model_id="tiny-sd15", started_at=NOW, step=3, steps=20
        ),
        pid=42,
        uptime_seconds=61.0,
    )


def model() -> ModelInfo:
    return ModelInfo(
        id="tiny-sd15",
        name="Tiny [SD]",
        type=ModelType.SD15,
        file_path="/models/tiny-sd15",
        file_size=3 * GIB,
        status=ModelStatus.Available,
        components=[ModelComponent(id="unet", name="unet", size=GIB)],
        last_updated=NOW,
        updated_at=NOW,
    )


def refusal(action: str) -> FailedReply:
    return FailedReply(
        request_id=None,
        action=action,
        success=False,
        state=ReplyState.FAILED,
        message="needs 9 GiB",
        error=ErrorInfo(
            code=ErrorCode.INSUFFICIENT_MEMORY,
            message="needs 9 GiB",
            retryable=True,
            retry_after_ms=250,
            details={"needed_bytes": 9 * GIB},
            recovery=[Recovery(action="unload_model", description="unload [tiny]", parameters={"model_id": "tiny"})],
        ),
    )


def progress(action: str, step: int, steps: int) -> ProgressReply:
    return ProgressReply(request_id=None, action=action, state=ReplyState.PROGRESS, step=step, steps=steps, eta_ms=5.0)


def drawing(*names: str) -> GenerateReply:
    images = [
        GeneratedImage(name=name, media_type="image/png", width=8, height=8, bytes=len(PNG), sha256="0")
        for name in names
    ]
    return GenerateReply(
        request_id=None,
        action="generate",
        device_id="cpu:0",
        model_id="tiny-sd15",
        seed=7,
        images=images,
        steps_done=4,
        attachments=[Attachment(name=name, media_type="image/png", bytes=len(PNG)) for name in names],
        timing=Timing(queue_ms=0.2, total_ms=1234.0, denoise_ms=1000.0),
    )


def ping() -> PingReply:
    return PingReply(request_id=None, action="ping", time=NOW, epoch="e1")


def devices(*states: DeviceState) -> ListDevicesReply:
    listed = [device(f"cpu:{index}", state) for index, state in enumerate(states)]
    return ListDevicesReply(request_id=None, action="list_devices", devices=listed)


def of_action(action: str) -> Reply:
    """A completed reply of any action that the command line uses."""
    common = {"request_id": None, "action": action}
    on_device = {**common, "device_id": "cpu:0", "model_id": "tiny-sd15", "memory_pressure": PRESSURE}
    replies: dict[str, Reply] = {
        "ping": ping(),
        "list_devices": devices(DeviceState.READY, DeviceState.BUSY),
        "hello": HelloReply(
            **common,
            server="vrambroker",
            version="0.1.0",
            epoch="e1",
            actions=["ping"],
            limits=Limits(),
            conventions=Conventions(),
        ),
        "get_vram_model_status": GetVramModelStatusReply(
            **common,
            models=[
                StatusEntry(
                    model_id="tiny-sd15",
                    device_id="cpu:0",
                    tier=Tier.VRAM,
                    tiers=[Tier.VRAM, Tier.RAM],
                    bytes=GIB,
                    precision=ModelPrecision.Float16,
                    last_used=NOW,
                )
            ],
            used_vram=GIB,
            available_vram=GIB,
            total_vram=2 * GIB,
            status=ModelStatus.Unknown,
            status_description="",
            health_score=1.0,
            last_updated=NOW,
            devices=[device()],
        ),
        "list_models": ListModelsReply(
            **common,
            models=[model()],
            total_count=1,
            page=1,
            page_size=50,
            total_pages=1,
            type_distribution={ModelType.SD15: 1},
            status_distribution={ModelStatus.Available: 1},
        ),
        "get_model_info": GetModelInfoReply(
            **common, model_id="tiny-sd15", model=model(), compatibility=ModelCompatibilityInfo()
        ),
        "search_models": SearchModelsReply(
            **common,
            results=[
                ModelSearchResult(
                    model=model(),
                    relevance_score=1.5,
                    highlights={"name": "Tiny <em>[SD]</em>"},
                    device_compatibility={"cpu:0": True},
                )
            ],
            query="sd",
            total_count=1,
            page=1,
            page_size=20,
            total_pages=1,
            search_time_ms=1.2,
            facets={"type": {"SD15": 1}, "tags": {}, "author": {}, "status": {"Available": 1}},
        ),
        "update_metadata": UpdateMetadataReply(
            **common,
            model_id="tiny-sd15",
            updated_fields=["name", "rating"],
            updated_model=model(),
            updated_at=NOW,
            revision=3,
        ),
        "register_model": RegisterModelReply(**common, model_id="tiny-sd15", model=model()),
        "unregister_model": UnregisterModelReply(
            **common, model_id="tiny-sd15", file_path="/models/tiny-sd15", left_out=True
        ),
        "scan_models": ScanModelsReply(**common, added=["a"], updated=[], missing=["[b]"], rejected=[]),
        "validate_model": ValidateModelReply(
            **on_device,
            is_valid=True,
            validation_details={
                "file": {"exists": True, "size_bytes": GIB, "family": "Stable [Diffusion]", "dtype": "F16"},
                "hashes": {"unet/model.safetensors": {"auto_v2": "0123456789"}},
            },
            issues=[
                ValidationIssue(
                    severity=severity, code=ErrorCode.INSUFFICIENT_MEMORY, message="its [peak] does not fit"
                )
                for severity in Severity
            ],
            is_compatible=False,
            validation_results=ModelValidationResults(
                feature_validations={"enable_onnx": ValidationResult(message="not [here]")},
            ),
            compatibility_score=0.5,
            performance_estimation=ModelPerformanceEstimation(
                estimated_inference_time=1200.0,
                estimated_memory_usage=GIB,
                confidence_score=0.2,
                performance_category="fast",
            ),
            recommendations=["vrambroker load tiny-sd15 --precision Int8"],
        ),
        "benchmark_model": BenchmarkModelReply(
            **on_device,
            avg_inference_time=1200.0,
            min_inference_time=1100.0,
            max_inference_time=1400.0,
            throughput=0.83,
            memory_peak=GIB,
            memory_avg=GIB // 2,
            total_time=12.0,
            results=ModelBenchmarkResults(
                overall_score=42.0,
                inference_time_stats=InferenceTimeStats(average=1200.0, minimum=1100.0, maximum=1400.0),
                throughput_stats=ThroughputStats(average=0.83, peak=0.9, sustained=0.8),
                quality_metrics={"equal_pictures": 1.0},
                resource_utilization={"cpu": 0.5, "denoise_ms": 1000.0, "energy_per_image_j": 300.0},
                benchmark_configuration={
                    "benchmark_type": "[Mixed]",
                    "input_width": 512,
                    "input_height": 512,
                    "batch_size": 1,
                    "inference_steps": 20,
                    "benchmark_runs": 10,
                    "precision": "Float16",
                    "variants": [
                        {
                            "width": 512,
                            "height": 512,
                            "batch_size": 1,
                            "average_ms": 1200.0,
                            "throughput": 0.83,
                            "memory_peak": GIB,
                        },
                        {
                            "width": 768,
                            "height": 768,
                            "batch_size": 64,
                            "average_ms": None,
                            "throughput": None,
                            "memory_peak": None,
                            "error": "it does [not] fit",
                        },
                        "no variant",
                    ],
                },
            ),
            benchmark_duration_seconds=12.0,
            performance_metrics=ModelPerformance(),
            memory_usage=ModelMemoryUsage(),
            benchmarked_at=NOW,
        ),
        "optimize_model": OptimizeModelReply(
            **on_device,
            optimization_time=12.0,
            optimization_time_ms=12.0,
            memory_freed=-GIB,
            vram_usage_after=GIB,
            results=ModelOptimizationResults(
                optimizations_applied=["precision"],
                original_size_bytes=2 * GIB,
                optimized_size_bytes=GIB,
                size_reduction_percentage=50.0,
                estimated_performance_improvement=-3.0,
                detailed_metrics={"ssim": 0.99, "psnr_db": 40.0, "step_ms_before": 20.0, "step_ms_after": 21.0},
            ),
            optimized_model=model(),
            optimized_at=NOW,
            options=[
                OptionOutcome(
                    option="precision",
                    requested="Int8",
                    applied=True,
                    evidence={"step_ms_after": 21.0, "peak_bytes_after": GIB, "ssim": 0.99},
                ),
                OptionOutcome(option="enable_onnx", requested=True, applied=False, reason="it is [not] here"),
            ],
        ),
        "load_model": LoadModelReply(
            **on_device,
            memory_usage=GIB,
            memory_added=GIB,
            load_time=10.0,
            load_time_ms=10.0,
            memory=ModelMemoryUsage(model_memory_bytes=GIB),
            optimizations_applied=[],
            loaded_at=NOW,
            options=[
                OptionOutcome(
                    option="enable_tensor_rt",
                    requested=True,
                    applied=False,
                    reason="not on a cpu device",
                    evidence=None,
                )
            ],
            cache=LoadCache(source=LoadSource.DISK, page_cache_ratio=0.5),
            timing=Timing(read_ms=3.0),
        ),
        "unload_model": UnloadModelReply(
            **on_device,
            memory_freed=GIB,
            unload_time_ms=1.0,
            memory_freed_bytes=GIB,
            cache_cleared=False,
            unloaded_at=NOW,
        ),
        "pin_model": PinModelReply(**on_device, pinned=True),
        "cancel": CancelReply(**common, target_request_id="r1", outcome=CancelOutcome.ALREADY_FINISHED),
        "generate": drawing("image-0"),
    }
    return replies[action]
