"""What children are told at their start, from the settings."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import msgspec
from msgspec import Struct

from broker.devices import FoundDevice
from broker.launch.child import Child
from broker.launch.listeners import descriptor, listen
from broker.premises import guarded_doors, link_key_file
from protocol.enums import DeviceKind
from protocol.link import CatalogSpec, WorkerSpec, encode_spec
from protocol.supervision import BrokerSpec, DeviceSlot
from protocol.version import VERSION
from settings.config import Settings


class Addresses(Struct, frozen=True, kw_only=True):
    """Where the broker is, and the sockets that the supervisor keeps for it."""

    commands: str
    events: str
    link: str
    commands_listener: socket.socket | None = None
    events_listener: socket.socket | None = None

    def listening(self) -> Addresses:
        """The same, with sockets that listen there. Raises OSError."""
        commands, events = listen(self.commands), listen(self.events)
        return msgspec.structs.replace(self, commands_listener=commands, events_listener=events)

    def descriptors(self) -> tuple[int, ...]:
        """What a broker inherits."""
        return tuple(s.fileno() for s in (self.commands_listener, self.events_listener) if s is not None)


def broker_spec(settings: Settings, addresses: Addresses, workers: Iterable[tuple[Child, FoundDevice]]) -> BrokerSpec:
    """The spec of a broker that takes over whatever workers there are."""
    pairs = list(workers)
    slots = [
        DeviceSlot(
            device_id=child.name,
            kind=device.request.kind,
            ram_budget_bytes=settings.ram_bytes,
            drained=child.drained,
        )
        for child, device in pairs
    ]
    return BrokerSpec(
        commands=addresses.commands,
        events=addresses.events,
        link=addresses.link,
        devices=slots,
        limits=settings.limits,
        silence_ms=settings.silence_ms,
        results_seconds=settings.results_seconds,
        progress=settings.progress,
        admin=settings.admin,
        guarded=guarded_doors(settings),
        keys=str(settings.keys),
        quota=settings.quota,
        quotas=settings.quotas,
        preload=list(settings.preload),
        survivors=[child.name for child, _ in pairs if child.process is not None],
        data=str(settings.data),
        commands_fd=descriptor(addresses.commands_listener),
        events_fd=descriptor(addresses.events_listener),
        version=VERSION,
    )


def child_argument(
    settings: Settings, device: FoundDevice | None, link: str, generation: int, *, ram_tier_fd: int
) -> str:
    """What an incarnation of a device's worker, or of the catalogue, is started with. Raises ConfigError."""
    if device is None:
        return encode_spec(catalog_spec(settings, link, generation))
    spec = worker_spec(settings, device, link, generation)
    return encode_spec(msgspec.structs.replace(spec, ram_tier_fd=ram_tier_fd))


def catalog_spec(settings: Settings, link: str, generation: int) -> CatalogSpec:
    """The spec of an incarnation of the catalogue."""
    return CatalogSpec(
        link=link,
        generation=generation,
        runtime=str(settings.runtime),
        data=str(settings.data),
        model_roots=[str(root) for root in settings.models],
        key_file=link_key_file(settings),
        heartbeat_ms=settings.heartbeat_ms,
    )


def worker_spec(settings: Settings, device: FoundDevice, link: str, generation: int) -> WorkerSpec:
    """The spec of an incarnation of a device's worker."""
    return WorkerSpec(
        device_id=device.request.device_id,
        link=link,
        generation=generation,
        runtime=str(settings.runtime),
        outputs=str(settings.outputs),
        model_roots=[str(root) for root in settings.models],
        key_file=link_key_file(settings),
        budget_bytes=settings.vram_bytes,
        ram_budget_bytes=settings.ram_bytes,
        reserve_bytes=settings.reserve_bytes if device.request.kind is DeviceKind.CUDA else 0,
        cuda_uuid=device.cuda_uuid,
        threads=device.threads,
        heartbeat_ms=settings.heartbeat_ms,
        telemetry_ms=settings.telemetry_ms,
        max_side=settings.limits.max_side,
        max_images=settings.limits.num_images,
    )
