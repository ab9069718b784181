"""A soak from its broker's start to its verdict: work, faults, samples, and what they prove.

The broker is the soak's own: it is started with the configuration given, in a folder and at addresses of the soak's,
and ended with it.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
from msgspec import Struct

from settings.private import environment
from soak.ledger import Ledger
from soak.plan import FAULTY_SHARE, Fault, Planned, schedule
from soak.samples import DeviceSample, Processes, Sample, devices_of
from soak.traffic import PATIENCE_SECONDS, Traffic
from soak.verdict import Recovery, Verdict, checks_of

ANY_PORT = "tcp://127.0.0.1:0"
KEPT = ("MODELS", "DEVICES", "VRAM", "RAM")
"""Settings of this process that the soak's broker has too."""

START_SECONDS = 120.0
STOP_SECONDS = 30.0
SAMPLE_SECONDS = 1.0
DEVICES_SECONDS = 0.5
LAST_LOOK_SECONDS = 10.0
STALL_SECONDS = 2.0
TELL_SECONDS = 1.0
KILLED = {
    Fault.KILL_WORKER: "worker",
    Fault.KILL_BROKER: "broker",
    Fault.KILL_CATALOGUE: "catalog",
    Fault.KILL_WEB: "web",
}


class SoakError(RuntimeError):
    """A soak that could not begin."""


class Standing(Struct, frozen=True, kw_only=True):
    """How it goes."""

    elapsed: float
    seconds: float
    counts: dict[str, int]
    faults: dict[str, int]
    under_way: int
    findings: int


class Served:
    """A `vrambroker serve` of the soak's own."""

    def __init__(self, folder: Path, config: Path | None) -> None:
        self.runtime = folder / "runtime"
        self.log = folder / "serve.log"
        own = {"RUNTIME": str(self.runtime), "COMMANDS": ANY_PORT, "EVENTS": ANY_PORT, "WEB": "127.0.0.1:0"}
        own |= {"CONFIG": str(config.absolute())} if config is not None else {}
        command = [sys.executable, "-P", "-m", "cli.main", "serve"]
        with self.log.open("wb") as stream:
            self.process = subprocess.Popen(
                command, env=environment(own, KEPT), stdout=stream, stderr=stream, start_new_session=True
            )
        self.endpoints = self._endpoints()

    def _endpoints(self) -> dict[str, Any]:
        file = self.runtime / "endpoints.json"
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise SoakError(f"the broker ended at its start: {self.last_words()}")
            with contextlib.suppress(OSError, msgspec.DecodeError):
                found: dict[str, Any] = msgspec.json.decode(file.read_bytes())
                return found
            time.sleep(0.05)
        self.close()
        raise SoakError(f"the broker took no commands within {START_SECONDS:g} s")

    def last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else "it said nothing"

    def close(self) -> None:
        """SIGTERM, and whatever of it outlives that."""
        with contextlib.suppress(psutil.Error):
            everyone = psutil.Process(self.process.pid).children(recursive=True)
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS)
            for one in everyone:
                with contextlib.suppress(psutil.Error):
                    one.kill()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Soak:
    """One run. `endpoint` is where its clients connect: the broker's own, unless something stands between."""

    def __init__(self, pid: int, endpoint: str, models: list[tuple[str, bool]], *, seconds: float, seed: int) -> None:
        self.ledger = Ledger()
        self._traffic = Traffic(endpoint, models, self.ledger, seed=seed)
        self._processes = Processes(pid)
        self._seconds, self._seed = seconds, seed
        self._plan: list[Planned] = []
        self._samples: list[Sample] = []
        self._devices: list[DeviceSample] = []
        self._recoveries: list[Recovery] = []
        self._pending: list[tuple[float, str, str]] = []
        self._stalled: list[tuple[float, psutil.Process]] = []
        self._faults: Counter[str] = Counter()
        self._sample_at = self._ask_at = self._tell_at = 0.0
        self._start = 0.0

    def run(self, every_seconds: float, tell: Callable[[Standing], None] | None = None) -> Verdict:
        """The whole run; an interrupt ends it early, with a verdict all the same."""
        started_at = datetime.now(UTC)
        self._start = time.monotonic()
        self._plan = schedule(self._seconds, every_seconds, self._seed)
        ended = "completed"
        try:
            while self._elapsed() < self._seconds:
                self._turn(send=True, tell=tell)
            self._finish(tell)
        except KeyboardInterrupt:
            ended = "interrupted"
        finally:
            self._wake()
        if ended == "completed":
            self.ledger.close()
        steady_from = self._seconds * FAULTY_SHARE
        checks = checks_of(self.ledger, self._samples, self._devices, self._settled(), steady_from=steady_from)
        verdict = Verdict(
            started_at=started_at,
            minutes=self._elapsed() / 60,
            seed=self._seed,
            ended=ended,
            passed=ended == "completed" and all(check.passed for check in checks),
            checks=checks,
            counts=dict(self.ledger.counts),
            errors=dict(self.ledger.errors),
            faults=dict(self._faults),
            recoveries=self._settled(),
        )
        self._traffic.close()
        return verdict

    def _elapsed(self) -> float:
        return time.monotonic() - self._start

    def _turn(self, *, send: bool, tell: Callable[[Standing], None] | None) -> None:
        now = self._elapsed()
        while self._plan and self._plan[0].at <= now:
            self._break(self._plan.pop(0))
        self._wake(now)
        self._traffic.turn(send=send)
        self._look(now)
        if tell is not None and now >= self._tell_at:
            self._tell_at = now + TELL_SECONDS
            tell(self._standing(now))

    def _finish(self, tell: Callable[[Standing], None] | None) -> None:
        """Nothing new is sent: what is open is answered, or was lost; then the devices are looked at once more."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.ledger.open() and time.monotonic() < until:
            self._turn(send=False, tell=tell)
        calm = time.monotonic()
        while self._traffic.devices_asked_at <= calm and time.monotonic() < calm + LAST_LOOK_SECONDS:
            self._turn(send=False, tell=tell)
        self._devices += devices_of(self._traffic.devices, self._elapsed())

    def _standing(self, now: float) -> Standing:
        return Standing(
            elapsed=now,
            seconds=self._seconds,
            counts=dict(self.ledger.counts),
            faults=dict(self._faults),
            under_way=len(self.ledger.open()),
            findings=len(self.ledger.findings("lost", "doubled", "unknown", "wrong picture", "error")),
        )

    # looking

    def _look(self, now: float) -> None:
        if now >= self._ask_at:
            self._ask_at = now + DEVICES_SECONDS
            self._traffic.ask_devices()
            self._devices += devices_of(self._traffic.devices, now)
        if now >= self._sample_at:
            self._sample_at = now + SAMPLE_SECONDS
            self._samples += self._processes.sample(self._start)
        if self._pending:
            self._recover(now)

    def _recover(self, now: float) -> None:
        """Who took the places of those that were killed."""
        there = self._processes.by_role()
        for at, role, life in list(self._pending):
            process = there.get(role)
            if process is None or _life(process) == life or not self._is_back(role, process.pid, at):
                continue
            self._pending.remove((at, role, life))
            self._recoveries.append(Recovery(at=at, role=role, seconds=now - at))

    def _is_back(self, role: str, pid: int, killed_at: float) -> bool:
        """Whether a role's process does its work again: the broker and the catalogue have answered what was asked after
        the kill, a worker's device is ready with this process. Of the web server its process is enough."""
        since = self._start + killed_at
        if role == "catalog":
            return self._traffic.catalogue_at > since
        if role == "web":
            return True
        if self._traffic.devices_asked_at <= since:
            return False
        device_id = role.partition(" ")[2]
        devices = self._traffic.devices.get("devices", [])
        return not device_id or any(
            one["device_id"] == device_id and one["pid"] == pid and one["state"] in ("ready", "busy") for one in devices
        )

    def _settled(self) -> list[Recovery]:
        return [*self._recoveries, *(Recovery(at=at, role=role, seconds=None) for at, role, _ in self._pending)]

    # breaking

    def _break(self, planned: Planned) -> None:
        fault, pick = planned.fault, planned.pick
        if fault in KILLED:
            done = self._kill(KILLED[fault], pick)
        elif fault is Fault.STALL_WORKER:
            done = self._stall(pick)
        else:
            {
                Fault.RECONNECT: self._traffic.reconnect,
                Fault.BAD_INPUT: self._traffic.bad_input,
                Fault.TOO_LARGE: self._traffic.too_large,
            }[fault](pick)
            done = True
        if done:
            self._faults[fault.value] += 1

    def _victim(self, kind: str, pick: float) -> tuple[str, psutil.Process] | None:
        found = sorted((role, one) for role, one in self._processes.by_role().items() if role.split()[0] == kind)
        return found[int(pick * len(found))] if found else None

    def _kill(self, kind: str, pick: float) -> bool:
        victim = self._victim(kind, pick)
        if victim is None:
            return False
        role, process = victim
        with contextlib.suppress(psutil.Error):
            life = _life(process)
            process.kill()
            self._pending.append((self._elapsed(), role, life))
            return True
        return False

    def _stall(self, pick: float) -> bool:
        victim = self._victim("worker", pick)
        if victim is None:
            return False
        with contextlib.suppress(psutil.Error):
            victim[1].suspend()
            self._stalled.append((self._elapsed() + STALL_SECONDS, victim[1]))
            return True
        return False

    def _wake(self, now: float | None = None) -> None:
        """Let those go on that were stopped for long enough; all of them where no moment is given."""
        for until, process in list(self._stalled):
            if now is None or until <= now:
                self._stalled.remove((until, process))
                with contextlib.suppress(psutil.Error):
                    process.resume()


def _life(process: psutil.Process) -> str:
    return f"{process.pid}/{process.create_time():.0f}"
