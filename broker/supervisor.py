"""`vrambroker serve`: the only parent. Starts, watches and restarts the broker, the catalogue and the workers.

It opens no ZeroMQ socket and imports no torch. It knows processes; what they do is the broker's to know.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from broker.devices import FoundDevice, find_devices
from broker.launch.local import LocalLauncher, LocalProcess
from broker.restarts import RestartPolicy
from protocol import supervision as s
from protocol.enums import DeviceKind
from protocol.link import CATALOG_ID, CatalogSpec, WorkerSpec, encode_spec
from protocol.version import VERSION
from settings import endpoints, logs
from settings.config import ConfigError, Settings, load
from settings.endpoints import Endpoints
from settings.logs import Logger

BROKER = "broker"
ADDRESS_IN_USE = 3
"""The broker's exit status where an endpoint cannot be bound; at the first start that ends everything."""

LONGEST_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes."""

STOP_SECONDS = 3.0
"""What a child has to end after it was told to, beyond the drain time."""

_log = Logger()


def run(config: Path | None = None) -> int:
    """Serve in the foreground until SIGINT or SIGTERM. 0 after a clean stop, 2 for settings that cannot be obeyed."""
    try:
        settings = load(config)
        _refuse_open_addresses(settings)
        devices = find_devices(settings)
        _make_folders(settings)
        with _only_one(settings.runtime):
            logs.configure("supervisor")
            return Supervisor(settings, devices).serve()
    except ConfigError as error:
        sys.stderr.write(f"vrambroker: {error}\n")
        return 2


def _refuse_open_addresses(settings: Settings) -> None:
    """Addresses that others can reach need keys, and this version has none."""
    for name, address in (("commands", settings.commands), ("events", settings.events)):
        host = address.removeprefix("tcp://").rpartition(":")[0].strip("[]")
        local = address.startswith("ipc://") or host in {"localhost", "::1"}
        if not local and not host.startswith("127."):
            raise ConfigError(f"{name} is '{address}': only loopback addresses are served without CURVE keys")


def _make_folders(settings: Settings) -> None:
    try:
        settings.runtime.mkdir(parents=True, exist_ok=True)
        settings.runtime.chmod(0o700)
        settings.data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"runtime folder {settings.runtime}: {error.strerror}") from None


@contextlib.contextmanager
def _only_one(runtime: Path) -> Iterator[None]:
    with (runtime / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"runtime folder {runtime} is in use by another broker") from None
        yield


class Child:
    """One process that is kept alive: the module it runs, and its incarnation."""

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self.module = module
        self.process: LocalProcess | None = None
        self.generation = 0
        self.restarts = 0
        self.started_at = 0.0
        self.start_at: float | None = 0.0
        self.policy = RestartPolicy(random.random)


class Supervisor:
    """Owns every child. One thread; woken by signals, children and the broker's lines."""

    def __init__(self, settings: Settings, devices: list[FoundDevice]) -> None:
        self._settings = settings
        self._devices = {device.request.device_id: device for device in devices}
        self._launcher = LocalLauncher()
        self._broker = Child(BROKER, "broker")
        self._children = {CATALOG_ID: Child(CATALOG_ID, "catalog")}
        self._children |= {name: Child(name, "worker") for name in self._devices}
        self._selector = selectors.DefaultSelector()
        self._socket_folder: tempfile.TemporaryDirectory[str] | None = None
        self._addresses = (settings.commands, settings.events, self._link_address())
        self._partial = b""
        self._may_start = False
        self._stopping: float | None = None
        self._status = 0

    def serve(self) -> int:
        """Run until told to stop; the exit status."""
        self._listen_to_signals()
        self._start_broker()
        try:
            while not self._finished():
                for key, _ in self._selector.select(self._patience()):
                    key.data()
                self._mind_broker()
                self._mind_children()
        finally:
            self._end_everything()
        return self._status

    def _link_address(self) -> str:
        """The worker link: configured, else a Unix socket in the runtime folder, or in a short one."""
        if self._settings.workers:
            return self._settings.workers
        path = self._settings.runtime / "workers.sock"
        if len(os.fsencode(path)) > LONGEST_SOCKET_PATH:
            self._socket_folder = tempfile.TemporaryDirectory(prefix="vrb-")
            path = Path(self._socket_folder.name) / "workers.sock"
        return f"ipc://{path}"

    # waking up

    def _listen_to_signals(self) -> None:
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, self._on_stop)
        signal.signal(signal.SIGTERM, self._on_stop)
        self._wakeup = (reader, writer)
        self._selector.register(reader, selectors.EVENT_READ, lambda: reader.recv(4096))

    def _patience(self) -> float:
        now = time.monotonic()
        moments = [child.start_at for child in self._all() if child.process is None and child.start_at is not None]
        if self._stopping is not None:
            moments.append(self._stopping)
        return max(0.0, min([moment - now for moment in moments], default=5.0))

    def _all(self) -> list[Child]:
        return [self._broker, *self._children.values()]

    # the broker

    def _start_broker(self) -> None:
        commands, events, link = self._addresses
        slots = [
            s.DeviceSlot(device_id=name, kind=device.request.kind, ram_budget_bytes=self._settings.ram_bytes)
            for name, device in self._devices.items()
        ]
        spec = s.BrokerSpec(
            commands=commands,
            events=events,
            link=link,
            devices=slots,
            limits=self._settings.limits,
            silence_ms=self._settings.silence_ms,
            admin=self._settings.admin,
            data=str(self._settings.data),
            version=VERSION,
        )
        process = self._launch(self._broker, msgspec.json.encode(spec).decode(), talks=True)
        self._partial = b""
        self._selector.register(process.stdout, selectors.EVENT_READ, self._read_broker)

    def _read_broker(self) -> None:
        process = self._broker.process
        if process is None:
            return
        data = os.read(process.stdout, 1 << 16)
        if not data:
            self._selector.unregister(process.stdout)
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for text in lines:
            self._from_broker(s.from_broker(text))

    def _from_broker(self, line: s.FromBroker) -> None:
        match line:
            case s.Ready():
                self._on_ready(line)
            case s.KillChild():
                child = self._children.get(line.child)
                if child is not None and child.process is not None and child.generation == line.generation:
                    _log.warning("worker is ended", child=line.child, reason=line.reason)
                    child.process.kill()

    def _on_ready(self, ready: s.Ready) -> None:
        self._addresses = (ready.commands, ready.events, ready.link)
        self._may_start = self._stopping is None
        written = Endpoints(commands=ready.commands, events=ready.events, pid=os.getpid(), epoch=ready.epoch)
        endpoints.write(self._settings.runtime, written)
        _log.info("taking commands", commands=ready.commands, events=ready.events, devices=list(self._devices))
        for child in self._children.values():
            if child.process is not None:
                self._tell_started(child)
        if self._stopping is not None:
            self._tell(s.Drain(seconds=self._settings.drain_seconds))
        self._mind_children()

    def _mind_broker(self) -> None:
        broker = self._broker
        if broker.process is None:
            if broker.start_at is not None and broker.start_at <= time.monotonic() and self._stopping is None:
                self._start_broker()
            return
        reason = broker.process.ended()
        if reason is None:
            return
        status = broker.process.status
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(broker.process.stdout)
        broker.process.close()
        broker.process = None
        if self._stopping is not None:
            return
        wait = broker.policy.wait_seconds(time.monotonic() - broker.started_at)
        _log.error("the broker is gone", reason=reason, restart_in=wait)
        if wait is None or (status == ADDRESS_IN_USE and not broker.restarts):
            self._status = 1
            self._stopping = time.monotonic()
            return
        broker.restarts += 1
        broker.start_at = time.monotonic() + wait

    def _tell(self, line: s.Line) -> None:
        if self._broker.process is not None:
            self._broker.process.write(s.line(line))

    def _tell_started(self, child: Child) -> None:
        if child.process is not None:
            started = s.ChildStarted(
                child=child.name, generation=child.generation, pid=child.process.pid, restarts=child.restarts
            )
            self._tell(started)

    # the catalogue and the workers

    def _mind_children(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.process is not None:
                self._mind_child(child, now)
            elif child.start_at is not None and child.start_at <= now and self._may_start:
                self._start_child(child)

    def _mind_child(self, child: Child, now: float) -> None:
        assert child.process is not None
        reason = child.process.ended()
        if reason is None:
            return
        child.process.close()
        child.process = None
        wait = None if self._stopping is not None else child.policy.wait_seconds(now - child.started_at)
        child.start_at = None if wait is None else now + wait
        child.restarts += 1
        if self._stopping is None:
            _log.warning("a process is gone", child=child.name, reason=reason, restart_in=wait)
        exited = s.ChildExited(
            child=child.name, generation=child.generation, reason=reason, restarting=wait is not None
        )
        self._tell(exited)

    def _start_child(self, child: Child) -> None:
        child.generation += 1
        argument = encode_spec(self._catalog_spec(child) if child.name == CATALOG_ID else self._worker_spec(child))
        self._launch(child, argument)
        self._tell_started(child)

    def _launch(self, child: Child, argument: str, *, talks: bool = False) -> LocalProcess:
        child.started_at = time.monotonic()
        child.process = self._launcher.launch(child.module, argument, talks=talks)
        return child.process

    def _catalog_spec(self, child: Child) -> CatalogSpec:
        return CatalogSpec(
            link=self._addresses[2],
            generation=child.generation,
            runtime=str(self._settings.runtime),
            data=str(self._settings.data),
            model_roots=[str(root) for root in self._settings.models],
            heartbeat_ms=self._settings.heartbeat_ms,
        )

    def _worker_spec(self, child: Child) -> WorkerSpec:
        settings, device = self._settings, self._devices[child.name]
        return WorkerSpec(
            device_id=child.name,
            link=self._addresses[2],
            generation=child.generation,
            runtime=str(settings.runtime),
            outputs=str(settings.outputs),
            model_roots=[str(root) for root in settings.models],
            budget_bytes=settings.vram_bytes,
            ram_budget_bytes=settings.ram_bytes,
            reserve_bytes=settings.reserve_bytes if device.request.kind is DeviceKind.CUDA else 0,
            cuda_uuid=device.cuda_uuid,
            heartbeat_ms=settings.heartbeat_ms,
            telemetry_ms=settings.telemetry_ms,
        )

    # stopping

    def _on_stop(self, number: int, _: object) -> None:
        if self._stopping is not None:
            self._stopping = time.monotonic()
            return
        self._may_start = False
        _log.info("stopping", signal=signal.Signals(number).name, drain_seconds=self._settings.drain_seconds)
        self._stopping = time.monotonic() + self._settings.drain_seconds + STOP_SECONDS
        self._tell(s.Drain(seconds=self._settings.drain_seconds))

    def _finished(self) -> bool:
        if self._stopping is None:
            return False
        gone = all(child.process is None for child in self._all())
        return gone or time.monotonic() >= self._stopping

    def _end_everything(self) -> None:
        """No child outlives this: those that did not end by themselves are killed."""
        for child in self._all():
            if child.process is not None:
                child.process.kill()
        for child in self._all():
            while child.process is not None and child.process.ended() is None:
                time.sleep(0.005)
        with contextlib.suppress(OSError):
            (self._settings.runtime / endpoints.FILE_NAME).unlink()
        if self._socket_folder is not None:
            self._socket_folder.cleanup()
        _log.info("stopped")


if __name__ == "__main__":
    sys.exit(run())
