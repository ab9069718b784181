"""What timed runs add up to.

Percentiles are those of the sorted times with linear interpolation between neighbours (Hyndman and Fan's type 7); the
standard deviation is the sample's. Throughput is images by time: `average` over the sum of the runs, `peak` of the
fastest run, `sustained` over the wall clock from the first run's start to the last one's end, `efficiency` = average /
peak. `overall_score` is 0-100: 100 x r / (r + `HALF_RATE`) x average / p95, where r are the megapixel steps a second:
half of the scale at `HALF_RATE`, less for runs that differ in their time.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from protocol.records import InferenceTimeStats, ThroughputStats

HALF_RATE = 10.0


def time_stats(times_ms: Sequence[float]) -> InferenceTimeStats:
    """Of at least one time."""
    return InferenceTimeStats(
        average=statistics.fmean(times_ms),
        minimum=min(times_ms),
        maximum=max(times_ms),
        standard_deviation=statistics.stdev(times_ms) if len(times_ms) > 1 else 0.0,
        percentile95=percentile(times_ms, 0.95),
        percentile99=percentile(times_ms, 0.99),
    )


def percentile(times_ms: Sequence[float], share: float) -> float:
    """The time within which this share of the runs was done."""
    ordered = sorted(times_ms)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def throughput_stats(times_ms: Sequence[float], images: int, wall_ms: float) -> ThroughputStats:
    """Of runs of so many images each."""
    average = images * len(times_ms) / sum(times_ms) * 1000
    peak = images / min(times_ms) * 1000
    return ThroughputStats(
        average=average,
        peak=peak,
        sustained=images * len(times_ms) / wall_ms * 1000,
        efficiency=average / peak,
    )


def overall_score(stats: InferenceTimeStats, pixels: int, steps: int) -> float:
    """Of runs of so many pixels, all images together."""
    rate = pixels / 1e6 * steps / stats.average * 1000
    return round(100 * rate / (rate + HALF_RATE) * min(1.0, stats.average / stats.percentile95), 2)
