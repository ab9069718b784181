"""What the ends of device commands add up to, by model and device.

Decides what counts as a use: a device command on the model that succeeded and loaded or ran it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from protocol.enums import DeviceKind, DeviceType
from protocol.link import UsageFact
from protocol.records import DevicePerformance, ModelPerformance, ModelUsageStats, Record

USES = frozenset({"load_model", "generate", "benchmark_model", "optimize_model", "load_component"})
SECONDS_PER_DAY = 86_400.0


class Totals(Record, frozen=True, kw_only=True):
    """Sums for one model on one device: counts, milliseconds, images, the highest peak in bytes."""

    model_id: str
    device_id: str
    uses: int = 0
    loads: int = 0
    load_ms: float = 0.0
    runs: int = 0
    run_ms: float = 0.0
    images: int = 0
    peak_bytes: int = 0
    first_used: datetime
    last_used: datetime


def totals_of(fact: UsageFact) -> Totals | None:
    """One fact as totals; None when it was no use."""
    if not fact.success or fact.action not in USES or not fact.model_id:
        return None
    facts = fact.facts
    load_ms = facts.load_ms if facts else None
    run_ms = facts.run_ms if facts else None
    return Totals(
        model_id=fact.model_id,
        device_id=fact.device_id,
        uses=1,
        loads=int(load_ms is not None),
        load_ms=load_ms or 0.0,
        runs=facts.runs if facts is not None and run_ms is not None else 0,
        run_ms=run_ms or 0.0,
        images=facts.images if facts else 0,
        peak_bytes=(facts.peak_bytes or 0) if facts else 0,
        first_used=fact.ended_at,
        last_used=fact.ended_at,
    )


def device_type(device_id: str) -> DeviceType:
    """What a device is to the host, by the kind in its id: GPU for cuda and virtual, CPU for cpu."""
    kinds = {DeviceKind.CUDA: DeviceType.GPU, DeviceKind.VIRTUAL: DeviceType.GPU, DeviceKind.CPU: DeviceType.CPU}
    by_word = {kind.value: known for kind, known in kinds.items()}
    return by_word.get(device_id.partition(":")[0], DeviceType.Unknown)


def performance(totals: Sequence[Totals]) -> ModelPerformance:
    """Averages over all devices: load and run times in ms, images per second of running."""
    loads, runs = sum(t.loads for t in totals), sum(t.runs for t in totals)
    run_ms, images = sum(t.run_ms for t in totals), sum(t.images for t in totals)
    return ModelPerformance(
        average_loading_time=_ratio(sum(t.load_ms for t in totals), loads),
        average_inference_time=_ratio(run_ms, runs),
        inference_throughput=_ratio(images * 1000.0, run_ms),
        total_inferences=runs,
        device_performance={
            t.device_id: DevicePerformance(
                average_inference_time=_ratio(t.run_ms, t.runs),
                throughput=_ratio(t.images * 1000.0, t.run_ms),
                inference_count=t.runs,
            )
            for t in totals
            if t.runs
        },
    )


def usage_stats(totals: Sequence[Totals], now: datetime, rating: float | None = None) -> ModelUsageStats:
    """Counts of uses; the frequency is uses a day since the first use, over at least one day."""
    uses = sum(t.uses for t in totals)
    by_type: dict[DeviceType, int] = {}
    for t in totals:
        by_type[device_type(t.device_id)] = by_type.get(device_type(t.device_id), 0) + t.uses
    first = min((t.first_used for t in totals), default=now)
    return ModelUsageStats(
        total_usage_count=uses,
        last_used=max((t.last_used for t in totals), default=None),
        average_inference_time=_ratio(sum(t.run_ms for t in totals), sum(t.runs for t in totals)),
        usage_frequency=uses / max((now - first).total_seconds() / SECONDS_PER_DAY, 1.0),
        device_usage_distribution=by_type,
        user_rating=rating,
    )


def _ratio(above: float, below: float) -> float:
    return above / below if below else 0.0
