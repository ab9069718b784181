"""Replies of work done with a model: validation, optimisation, benchmarks, pictures."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from protocol.commands import Attachment
from protocol.enums import (
    Severity,
)
from protocol.errors import ErrorCode, Recovery
from protocol.records import (
    ModelBenchmarkResults,
    ModelInfo,
    ModelMemoryUsage,
    ModelOptimizationResults,
    ModelPerformance,
    ModelPerformanceEstimation,
    ModelValidationResults,
    Record,
)
from protocol.replies.base import ModelReply
from protocol.replies.residency import Coordination, OptionOutcome


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


class GeneratedImage(Record, frozen=True, kw_only=True):
    """One image: `path` or base64 `data` where the delivery is not by attachment.

    `nsfw_content_detected` None: the model has no checker; true: its checker blackened the picture.
    """

    name: str
    media_type: str
    width: int
    height: int
    bytes: int
    sha256: str
    path: str | None = None
    data: str | None = None
    nsfw_content_detected: bool | None = None


class GenerateReply(ModelReply, frozen=True, kw_only=True):
    """Images, the seed that makes them again, and the steps done."""

    seed: int
    images: list[GeneratedImage]
    steps_done: int
    attachments: list[Attachment] = []
