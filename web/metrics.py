"""The broker's figures as Prometheus has them. `docs/metrics.md` says what each means.

Labels are bounded: devices, states, tiers, actions and error codes; no model, no request, no client is one. A reading
that a device lacks is absent, never 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import UNSET, Struct
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from protocol.enums import DeviceState, PressureLevel, Tier
from protocol.replies import DeviceInfo, HelloReply, ListDevicesReply, Statistics
from protocol.telemetry import Telemetry

DEVICE = ("device", "uuid")
PREFIX = "vrambroker_"


class Broker(Struct, frozen=True, kw_only=True):
    """What the broker said at one moment; nothing, with the reason, where it did not answer."""

    ping_seconds: float = 0.0
    hello: HelloReply | None = None
    devices: ListDevicesReply | None = None
    reason: str = ""

    @property
    def draining(self) -> bool:
        statistics = self.statistics
        return statistics is not None and statistics.draining

    @property
    def statistics(self) -> Statistics | None:
        if self.hello is None or self.hello.statistics is UNSET:
            return None
        return self.hello.statistics


READINGS: tuple[tuple[str, str, str], ...] = (
    ("device_utilization_ratio", "Share of the last sample's time that the device computed.", "utilization"),
    ("device_temperature_celsius", "Temperature of the device.", "temperature_c"),
    ("device_power_watts", "Power that the device draws.", "power_w"),
)
"""Gauges of a device, and the field of its telemetry that each is."""

HOST: tuple[tuple[str, str, str], ...] = (
    ("worker_resident_bytes", "Resident memory of the device's worker process.", "rss_bytes"),
    ("worker_unique_bytes", "Of these, those that no other process has.", "uss_bytes"),
    ("worker_ram_tier_bytes", "Models that the device's worker holds in the RAM tier.", "ram_tier_bytes"),
    ("worker_memory_stall_percent", "Share of ten seconds in which something waited for memory (PSI).", "psi"),
)


class Figures(Collector):
    """One scrape."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def collect(self) -> Iterable[Metric]:
        """Every family; without an answering broker `up` alone."""
        hello, devices = self._broker.hello, self._broker.devices
        yield GaugeMetricFamily(f"{PREFIX}up", "Whether the broker answered a ping just now.", float(hello is not None))
        if hello is None or devices is None:
            return
        yield InfoMetricFamily(PREFIX.rstrip("_"), "The broker.", {"version": hello.version, "epoch": hello.epoch})
        yield GaugeMetricFamily(f"{PREFIX}ping_seconds", "That ping's way there and back.", self._broker.ping_seconds)
        if self._broker.statistics is not None:
            yield from _commands(self._broker.statistics)
        yield from _devices(devices.devices)


def _commands(statistics: Statistics) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        f"{PREFIX}commands", "Commands that ended since the broker began.", labels=("action", "outcome")
    )
    times = HistogramMetricFamily(f"{PREFIX}command_seconds", "From arrival to answer.", labels=("action",))
    for one in statistics.commands:
        for outcome, count in one.outcomes.items():
            ended.add_metric((one.action, outcome), count)
        times.add_metric((one.action,), buckets=_buckets(statistics.bounds_seconds, one.buckets), sum_value=one.seconds)
    yield ended
    yield times
    yield GaugeMetricFamily(f"{PREFIX}commands_waiting", "Commands that wait, in all.", statistics.queued)
    yield GaugeMetricFamily(f"{PREFIX}draining", "Whether the broker is stopping.", float(statistics.draining))


def _buckets(bounds: list[float], counts: list[int]) -> list[tuple[str, float]]:
    """Counts up to each bound, which Prometheus wants summed up."""
    total, found = 0.0, []
    for bound, count in zip([*map(str, bounds), "+Inf"], counts, strict=True):
        total += count
        found.append((bound, total))
    return found


def _devices(devices: list[DeviceInfo]) -> Iterator[Metric]:
    labels = [(device.device_id, device.uuid) for device in devices]
    info = GaugeMetricFamily(f"{PREFIX}device_info", "What a device is.", labels=(*DEVICE, "name", "kind"))
    states = GaugeMetricFamily(f"{PREFIX}device_state", "1 for the state that it is in.", labels=(*DEVICE, "state"))
    levels = GaugeMetricFamily(
        f"{PREFIX}device_pressure_level", "1 for its memory pressure.", labels=(*DEVICE, "level")
    )
    for device, own in zip(devices, labels, strict=True):
        info.add_metric((*own, device.name, device.kind.value), 1)
        for state in DeviceState:
            states.add_metric((*own, state.value), float(device.state is state))
        if device.memory_pressure is not None:
            for level in PressureLevel:
                levels.add_metric((*own, level.value), float(device.memory_pressure.level is level))
    yield from (info, states, levels)
    yield from _memory(devices, labels)
    yield from _readings(devices, labels)
    yield from _work(devices, labels)
    yield _models(devices, labels)


def _gauge(name: str, text: str, values: Iterable[tuple[tuple[str, str], float | None]]) -> GaugeMetricFamily:
    """A gauge of devices; those that lack the reading are not in it."""
    family = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=DEVICE)
    for labels, value in values:
        if value is not None:
            family.add_metric(labels, value)
    return family


def _memory(devices: list[DeviceInfo], labels: list[tuple[str, str]]) -> Iterator[Metric]:
    sizes = (
        ("total", "Memory of the device.", "total_vram"),
        ("used", "Memory in use.", "used_vram"),
        ("free", "Memory that is free.", "free_vram"),
    )
    for word, text, field in sizes:
        values = [(own, float(getattr(device, field))) for device, own in zip(devices, labels, strict=True)]
        yield _gauge(f"device_memory_{word}_bytes", text, values)
    pressures = [device.memory_pressure for device in devices]
    reclaimable = [None if one is None else float(one.reclaimable_bytes) for one in pressures]
    ratios = [None if one is None else one.pressure for one in pressures]
    yield _gauge(
        "device_memory_reclaimable_bytes", "Of it, what idle models hold.", zip(labels, reclaimable, strict=True)
    )
    yield _gauge("device_pressure_ratio", "(used - reclaimable + reserve) / total.", zip(labels, ratios, strict=True))


def _readings(devices: list[DeviceInfo], labels: list[tuple[str, str]]) -> Iterator[Metric]:
    samples: list[Telemetry | None] = [device.telemetry for device in devices]
    for name, text, field in READINGS:
        values = [None if one is None else getattr(one, field) for one in samples]
        yield _gauge(name, text, zip(labels, values, strict=True))
    energy = CounterMetricFamily(f"{PREFIX}device_energy_joules", "Energy since its driver was loaded.", labels=DEVICE)
    for own, one in zip(labels, samples, strict=True):
        if one is not None and one.energy_j is not None:
            energy.add_metric(own, one.energy_j)
    yield energy
    for name, text, field in HOST:
        values = [None if one is None else getattr(one.host, field) for one in samples]
        yield _gauge(name, text, zip(labels, values, strict=True))


def _work(devices: list[DeviceInfo], labels: list[tuple[str, str]]) -> Iterator[Metric]:
    waiting = [float(device.queue_depth) for device in devices]
    running = [float(device.running is not None) for device in devices]
    uptimes = [device.uptime_seconds for device in devices]
    yield _gauge("device_commands_waiting", "Commands that wait for the device.", zip(labels, waiting, strict=True))
    yield _gauge("device_commands_running", "Commands that it runs: 0 or 1.", zip(labels, running, strict=True))
    yield _gauge("worker_uptime_seconds", "How long its worker has run.", zip(labels, uptimes, strict=True))
    restarts = CounterMetricFamily(f"{PREFIX}worker_restarts", "Restarts of its worker.", labels=DEVICE)
    for device, own in zip(devices, labels, strict=True):
        restarts.add_metric(own, device.restarts)
    yield restarts


def _models(devices: list[DeviceInfo], labels: list[tuple[str, str]]) -> Metric:
    family = GaugeMetricFamily(
        f"{PREFIX}device_models", "Models held, by their highest tier.", labels=(*DEVICE, "tier")
    )
    for device, own in zip(devices, labels, strict=True):
        counts = Counter(model.tier for model in device.models)
        for tier in (Tier.VRAM, Tier.RAM):
            family.add_metric((*own, tier.value), counts[tier])
    return family
