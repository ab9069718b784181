"""What the broker's events say beside a run: memory of each device over time, models that came and went."""

from __future__ import annotations

import threading
import time
from collections import Counter

from client.curve import CurveKeys
from client.events import EventStream
from loadgen.report import Sample, Watched
from protocol.enums import Tier
from protocol.events import ModelEvent, TelemetryEvent

LOOK_SECONDS = 0.2
MOST_SAMPLES = 20_000


class Watcher(threading.Thread):
    """Listens until told to end. A run is no worse where it hears nothing."""

    def __init__(self, endpoint: str, keys: CurveKeys | None) -> None:
        super().__init__(name="loadgen-events", daemon=True)
        self._endpoint, self._keys = endpoint, keys
        self._over = threading.Event()
        self._start = time.monotonic()
        self._samples: list[Sample] = []
        self._swaps: Counter[str] = Counter()
        self._evictions: Counter[str] = Counter()
        self._swap_seconds: list[float] = []
        self._peaks: dict[str, int] = {}

    def begin(self, start: float) -> None:
        """The run begins at this moment of the monotonic clock."""
        self._start = start

    def run(self) -> None:
        with EventStream(["telemetry.", "model."], self._endpoint, curve=self._keys) as stream:
            while not self._over.is_set():
                published = stream.next(LOOK_SECONDS)
                seconds = time.monotonic() - self._start
                if published is None or seconds < 0:
                    continue
                match published.event:
                    case TelemetryEvent():
                        self._sample(published.event, seconds)
                    case ModelEvent():
                        self._moved(published.event, seconds)

    def _sample(self, event: TelemetryEvent, seconds: float) -> None:
        used, device = event.memory.used, event.device_id
        self._peaks[device] = max(self._peaks.get(device, 0), used)
        if len(self._samples) < MOST_SAMPLES:
            self._samples.append(
                Sample(seconds=seconds, device_id=device, used_bytes=used, total_bytes=event.memory.total)
            )

    def _moved(self, event: ModelEvent, seconds: float) -> None:
        if event.tier is Tier.VRAM and event.from_tier not in (None, Tier.VRAM):
            self._swaps[event.device_id] += 1
            self._swap_seconds.append(seconds)
        elif "evicted" in (event.reason or ""):
            self._evictions[event.device_id] += 1

    def end(self) -> Watched:
        """Stop listening; what was heard."""
        self._over.set()
        self.join(5.0)
        return Watched(
            samples=self._samples,
            swaps=dict(self._swaps),
            evictions=dict(self._evictions),
            swap_seconds=self._swap_seconds,
            peak_bytes=self._peaks,
        )
