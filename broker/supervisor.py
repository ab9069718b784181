"""`vrambroker serve`: the only parent. Starts, watches and restarts the broker, the catalogue and the workers.

It opens no ZeroMQ socket and imports no torch. It knows processes; what they do is the broker's to know, who tells it
when one is ready, has served, has to be ended or replaced.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
import sys
import time

import msgspec

from broker.devices import FoundDevice
from broker.launch import memory, orphans, specs
from broker.launch.child import Child
from broker.launch.local import LocalLauncher, LocalProcess
from broker.launch.ram import MachineRam
from broker.restarts import RestartPolicy, broker_limits
from broker.runtime import RuntimeFolder
from broker.website import WebServer
from protocol import supervision as s
from protocol.link import CATALOG_ID
from settings import host
from settings.config import Settings
from settings.endpoints import Endpoints
from settings.file import ConfigError
from settings.logs import Logger
from settings.stops import StopSignals

BROKER = "broker"
ADDRESS_IN_USE = 3
"""The broker's exit status where an endpoint cannot be bound; at the first start that ends everything."""

STOP_SECONDS = 3.0
"""What a child has to end after it was told to, beyond the drain time."""

BROKER_START_SECONDS = 60.0
"""What the broker may take until it is ready: it reads its journal."""

BROKER_SILENCE_SECONDS = 5.0
"""The least silence that counts, whatever is configured for workers: the broker shows life once a second."""

LAUNCH_AGAIN_SECONDS = 1.0
AWAY_SECONDS = 1.0
"""Who wakes later than this after it meant to was stopped, or its machine was."""

MEMORY_SECONDS = 0.5
WORKERS_MEMORY_TURNS = 10
"""The broker's memory is looked at every half second, the workers' at every tenth look."""

_log = Logger()


class Supervisor:
    """Owns every child. One thread; woken by signals, children and the broker's lines."""

    def __init__(
        self, settings: Settings, devices: list[FoundDevice], stops: StopSignals, folder: RuntimeFolder
    ) -> None:
        self._settings = settings
        self._stops = stops
        self._folder = folder
        self._devices = {device.request.device_id: device for device in devices}
        self._launcher = LocalLauncher()
        self._broker = Child(BROKER, "broker", RestartPolicy(random.random, broker_limits(settings.restarts)))
        forever = RestartPolicy(random.random, settings.restarts, never_gives_up=True)
        self._children = {CATALOG_ID: Child(CATALOG_ID, "catalog", forever)}
        for name in self._devices:
            self._children[name] = Child(name, "worker", RestartPolicy(random.random, settings.restarts))
        self._selector = selectors.DefaultSelector()
        self._addresses = specs.Addresses(commands=settings.commands, events=settings.events, link=folder.link)
        limits = (settings.broker_memory_bytes, settings.worker_memory_bytes)
        self._memory = memory.MemoryWatch(*limits, host.memory_bytes())
        self._ram = MachineRam(settings.ram_bytes, self._selector)
        self._web = WebServer(settings, self._launcher)
        self._look_at = 0.0
        self._looks = 0
        self._heard_at = 0.0
        self._partial = b""
        self._may_start = False
        self._stopping: float | None = None
        self._status = 0

    def serve(self) -> int:
        """Run until told to stop; the exit status."""
        wakeup = self._stops.wakeup()
        self._selector.register(wakeup, selectors.EVENT_READ, lambda: wakeup.recv(4096))
        try:
            if not self._take_addresses():
                return 1
            self._web.listen()
            if not self._stops.waiting:
                self._start_broker()
            while not self._finished():
                self._wait()
                while (number := self._stops.take()) is not None:
                    self._stop(number)
                self._mind_broker()
                self._mind_children()
                self._web.mind(time.monotonic())
                self._mind_memory(time.monotonic())
                if os.getpid() == 1:
                    orphans.reap([child.process.pid for child in self._all() if child.process is not None])
        finally:
            self._end_everything()
        return self._status

    def _take_addresses(self) -> bool:
        """Listen where the broker will be; False where somebody else does."""
        try:
            self._addresses = self._addresses.listening()
        except OSError as error:
            commands, events = self._addresses.commands, self._addresses.events
            sys.stderr.write(f"vrambroker: cannot bind {commands}, {events}: {error.strerror}\n")
            return False
        return True

    # waking up

    def _patience(self) -> float:
        moments = [self._look_at]
        if self._stopping is not None:
            moments.append(self._stopping)
        else:
            due = self._all() if self._may_start else [self._broker]
            moments += [child.start_at for child in due if child.process is None and child.start_at is not None]
        return max(0.0, min(moments) - time.monotonic())

    def _wait(self) -> None:
        """Sleep until there is something to do, and do it.

        Who slept for much longer than it meant to was stopped itself: what waits is read first, and the time is
        nobody's silence.
        """
        began, patience = time.monotonic(), self._patience()
        ready = self._selector.select(patience)
        if time.monotonic() - began > patience + AWAY_SECONDS:
            ready = self._selector.select(0)
            self._heard_at = time.monotonic()
        for key, _ in ready:
            key.data()

    def _all(self) -> list[Child]:
        return [self._broker, self._web.child, *self._children.values()]

    # the broker

    def _start_broker(self) -> None:
        workers = [(self._children[name], device) for name, device in self._devices.items()]
        spec = specs.broker_spec(self._settings, self._addresses, workers)
        argument = msgspec.json.encode(spec).decode()
        descriptors = self._addresses.descriptors()
        try:
            process = self._launcher.launch(self._broker.module, argument, talks=True, descriptors=descriptors)
        except OSError as error:
            _log.error("the broker cannot be started", reason=str(error))
            self._broker.start_at = time.monotonic() + LAUNCH_AGAIN_SECONDS
            return
        self._broker.begin(process, time.monotonic())
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
        self._heard_at = time.monotonic()
        *lines, self._partial = (self._partial + data).split(b"\n")
        for text in lines:
            try:
                self._from_broker(s.from_broker(text))
            except Exception:
                _log.exception("a line of the broker's cannot be followed", line=text[:200].decode(errors="replace"))

    def _from_broker(self, line: s.FromBroker) -> None:
        match line:
            case s.Ready():
                self._on_ready(line)
            case s.Alive():
                self._broker.served = True
            case s.DrainChild(child=name, drained=drained):
                self._children[name].drained = drained
            case _:
                child = self._children.get(line.child)
                if child is not None and child.generation == line.generation:
                    self._about_child(child, line)

    def _about_child(self, child: Child, line: s.ChildReady | s.ChildServed | s.KillChild | s.RestartChild) -> None:
        match line:
            case s.ChildReady():
                child.ready = True
            case s.ChildServed():
                child.served = True
            case s.KillChild() if child.process is not None:
                _log.warning("worker is ended", child=line.child, reason=line.reason)
                child.condemn(line.reason)
            case s.RestartChild() if self._stopping is None:
                _log.info("worker is replaced", child=line.child, reason=line.reason)
                child.revive(line.reason, time.monotonic())

    def _on_ready(self, ready: s.Ready) -> None:
        self._broker.ready = True
        self._addresses = msgspec.structs.replace(
            self._addresses, commands=ready.commands, events=ready.events, link=ready.link
        )
        self._may_start = self._stopping is None
        self._folder.announce(
            Endpoints(
                commands=ready.commands, events=ready.events, web=self._web.url, pid=os.getpid(), epoch=ready.epoch
            )
        )
        if self._stopping is None:
            self._web.point_at(ready.commands)
        _log.info(
            "taking commands",
            commands=ready.commands,
            events=ready.events,
            web=self._web.url,
            devices=list(self._devices),
        )
        for child in self._children.values():
            if child.process is not None:
                self._tell_started(child)
            elif child.generation:
                self._tell_exited(child)
        if self._stopping is not None:
            self._tell(s.Drain(seconds=self._settings.drain_seconds))
        self._mind_children()

    def _mind_broker(self) -> None:
        broker = self._broker
        now = time.monotonic()
        if broker.process is None:
            if broker.start_at is not None and broker.start_at <= now and self._stopping is None:
                self._start_broker()
            return
        reason = broker.process.ended()
        if reason is None:
            self._check_silence(broker.process, now)
            return
        status = broker.process.status
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(broker.process.stdout)
        wait = broker.bury(reason, now)
        if self._stopping is not None:
            self._dismiss()
            return
        _log.error("the broker is gone", reason=broker.last_words, restart_in=wait)
        if wait is None or (status == ADDRESS_IN_USE and broker.restarts == 1):
            self._status = 1
            self._stopping = now

    def _check_silence(self, process: LocalProcess, now: float) -> None:
        """A broker whose loop does not turn is ended; its lines are read before this is asked."""
        broker = self._broker
        heard_at = max(self._heard_at, broker.started_at)
        silence = max(self._settings.silence_ms / 1000, BROKER_SILENCE_SECONDS)
        allowed = silence if broker.ready else BROKER_START_SECONDS
        if now - heard_at > allowed and self._stopping is None:
            _log.error("the broker is ended", reason=f"it was silent for {allowed:g} s")
            process.kill()

    def _tell(self, line: s.Line) -> None:
        if self._broker.process is not None:
            self._broker.process.write(s.line(line))

    def _tell_started(self, child: Child) -> None:
        if child.process is not None:
            pid, restarts = child.process.pid, child.restarts
            self._tell(s.ChildStarted(child=child.name, generation=child.generation, pid=pid, restarts=restarts))

    def _tell_exited(self, child: Child) -> None:
        exited = s.ChildExited(
            child=child.name,
            generation=child.generation,
            reason=child.last_words,
            restarting=not child.given_up,
            restarts=child.restarts,
        )
        self._tell(exited)

    # the catalogue and the workers

    def _mind_children(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.process is not None:
                self._mind_child(child, child.process, now)
            elif child.start_at is not None and child.start_at <= now and self._may_start:
                self._start_child(child)

    def _mind_child(self, child: Child, process: LocalProcess, now: float) -> None:
        reason = process.ended()
        if reason is None:
            return
        if self._stopping is not None:
            process.close()
            child.process, child.start_at, child.last_words = None, None, reason
        else:
            wait = child.bury(reason, now)
            _log.warning("a process is gone", child=child.name, reason=child.last_words, restart_in=wait)
        self._tell_exited(child)

    def _start_child(self, child: Child) -> None:
        child.generation += 1
        device = self._devices.get(child.name)
        try:
            with self._ram.channel(device) as channel:
                link, generation = self._addresses.link, child.generation
                argument = specs.child_argument(self._settings, device, link, generation, ram_tier_fd=channel)
                inherited = (channel,) if channel >= 0 else ()
                child.begin(self._launcher.launch(child.module, argument, descriptors=inherited), time.monotonic())
        except (OSError, ConfigError) as error:
            # A machine that has no room for a process now may have some later.
            _log.error("a process cannot be started", child=child.name, reason=str(error))
            child.start_at = time.monotonic() + LAUNCH_AGAIN_SECONDS
        else:
            self._tell_started(child)

    # memory

    def _mind_memory(self, now: float) -> None:
        if now < self._look_at:
            return
        self._look_at = now + MEMORY_SECONDS
        self._looks += 1
        if self._folder.repair():
            self._tell(s.BindLink())
        process = self._broker.process
        held = memory.held_bytes(process.pid) if process is not None else None
        why = self._memory.broker(held)
        if process is not None and why is not None and self._stopping is None:
            _log.error("the broker is ended", reason=why)
            self._broker.revive(why, now)
        if self._looks % WORKERS_MEMORY_TURNS == 0:
            self._ram.expire()
            self._mind_workers_memory((held or 0) + self._ram.used_bytes)

    def _mind_workers_memory(self, others_bytes: int) -> None:
        running = {child.name: child.process for child in self._children.values() if child.process is not None}
        held = {name: memory.held_bytes(process.pid) or 0 for name, process in running.items()}
        others_bytes += held.pop(CATALOG_ID, 0)
        excess = self._memory.worker(held, others_bytes)
        if excess is None or self._children[excess.child].recycling:
            return
        child = self._children[excess.child]
        child.recycling = True
        _log.warning("a worker is to be replaced", child=child.name, reason=excess.reason)
        self._tell(s.RecycleChild(child=child.name, generation=child.generation, reason=excess.reason))

    # stopping

    def _stop(self, number: int) -> None:
        """A signal to stop; the second one ends everything at once."""
        if self._stopping is not None:
            self._stopping = time.monotonic()
            return
        self._may_start = False
        _log.info("stopping", signal=signal.Signals(number).name, drain_seconds=self._settings.drain_seconds)
        self._stopping = time.monotonic() + self._settings.drain_seconds + STOP_SECONDS
        self._tell(s.Drain(seconds=self._settings.drain_seconds))

    def _dismiss(self) -> None:
        """The broker is done: children that it could not tell, since they had not registered, are told here."""
        for child in self._children.values():
            if child.process is not None:
                child.process.terminate()
        self._web.dismiss()

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
        self._ram.close()
        _log.info("stopped")
