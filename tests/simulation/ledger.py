"""The oracle: an independent book of what was asked, begun, ended and answered, and every promise that it breaks."""

from __future__ import annotations

from typing import Any

from protocol.actions import ACTIONS

MOST_RUNS = 3
MOST_PASSES = 3
SLACK_SECONDS = 0.05
DURABLE_SECONDS = 590.0
"""Within this time a final reply must still be found; it is kept for 600 s."""


class Entry:
    """One command as its client sees it."""

    def __init__(self, request_id: str, client: bytes, payload: dict[str, Any], now: float) -> None:
        self.request_id, self.client, self.payload = request_id, client, payload
        self.action = ACTIONS[payload["action"]]
        self.timeout = float(payload.get("timeout_seconds") or self.action.timeout_seconds)
        self.sent_at = now
        self.asked = 0
        self.arrived: list[float] = []
        self.epochs: set[int] = set()
        self.begun: list[float] = []
        self.attempts: set[tuple[int, int]] = set()
        self.accepted = 0
        self.finals: list[tuple[float, Any]] = []
        self.kept_at: float | None = None
        self.seen = False
        self.passed = 0
        self.lined_at = 0.0
        self.settled_at: float | None = None

    @property
    def placed(self) -> bool:
        return bool(self.attempts)


class Ledger:
    """Notes facts; `broken` is the list of promises that did not hold."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.broken: list[str] = []
        self._lines: dict[tuple[str, str], list[Entry]] = {}

    def fail(self, now: float, text: str) -> None:
        self.broken.append(f"{now:.3f}: {text}")

    # what happened

    def sent(self, entry: Entry) -> None:
        self.entries[entry.request_id] = entry

    def received(self, request_id: str, epoch: int, now: float) -> None:
        """A broker took the command in."""
        entry = self.entries[request_id]
        first = epoch not in entry.epochs
        entry.epochs.add(epoch)
        entry.arrived.append(now)
        resumed = entry.accepted > 0
        if first and not resumed and not entry.placed and entry.kept_at is None and _keeps_line(entry):
            line = self._lines.setdefault(_line(entry), [])
            if entry in line:
                line.remove(entry)
            line.append(entry)
            entry.lined_at, entry.passed = now, 0

    def broker_died(self) -> None:
        """What waited in its queues is anybody's order now."""
        self._lines.clear()

    def assigned(self, request_id: str, epoch: int, attempt: int, now: float) -> None:
        """The broker gave it to a worker."""
        if " " in request_id:
            return
        entry = self.entries[request_id]
        if entry.action.stored and (epoch, attempt) in entry.attempts:
            self.fail(now, f"{request_id}: attempt {attempt} was given out twice")
        entry.attempts.add((epoch, attempt))
        if entry.kept_at is not None and now < entry.kept_at + DURABLE_SECONDS:
            self.fail(now, f"{request_id} was given out after its end")
        latest = max(entry.arrived, default=now)
        if now > latest + entry.timeout + SLACK_SECONDS and entry.arrived:
            self.fail(now, f"{request_id} was begun {now - latest:.1f} s after its arrival, past {entry.timeout:g} s")
        if _keeps_line(entry):
            self._check_turn(entry, now)

    def _check_turn(self, entry: Entry, now: float) -> None:
        """Strict order within a client, a priority and a device; between clients, a bounded wait."""
        device, priority = _line(entry)
        line = self._lines.get((device, priority), [])
        if entry not in line:
            return
        line.remove(entry)
        heads: dict[bytes, Entry] = {}
        for other in line:
            heads.setdefault(other.client, other)
        head = heads.pop(entry.client, None)
        if head is not None and head.lined_at < entry.lined_at:
            self.fail(now, f"{entry.request_id} overtook {head.request_id} of the same client on {device}")
        for other in heads.values():
            other.passed += 1
            if other.passed > (1 + MOST_PASSES) * (len(heads) + 1):
                self.fail(now, f"{other.request_id} waited at the head of its line while {other.passed} went before")
        urgent = [o for o in self._ahead(device, priority) if o.arrived[-1] < now]
        if urgent:
            self.fail(now, f"{entry.request_id} ({priority}) went before {urgent[0].request_id} of higher priority")

    def _ahead(self, device: str, priority: str) -> list[Entry]:
        order = ("Critical", "High", "Normal", "Low")
        return [e for level in order[: order.index(priority)] for e in self._lines.get((device, level), [])]

    def begun(self, request_id: str, now: float) -> None:
        """A worker began to execute it."""
        if " " in request_id:
            return
        entry = self.entries[request_id]
        if entry.action.stored:
            entry.begun.append(now)
        allowed = MOST_RUNS if entry.action.idempotent else 1
        if len(entry.begun) > allowed:
            self.fail(now, f"{request_id} ({entry.action.name}) was executed {len(entry.begun)} times")

    def kept(self, request_id: str, now: float) -> None:
        """The broker wrote its final reply down."""
        if " " in request_id:
            return
        entry = self.entries[request_id]
        if entry.kept_at is not None and now < entry.kept_at + DURABLE_SECONDS:
            self.fail(now, f"{request_id} ended twice")
        entry.kept_at = now
        self._leave_line(entry)

    def _leave_line(self, entry: Entry) -> None:
        """It has its end, or found the queues full."""
        line = self._lines.get(_line(entry), []) if _keeps_line(entry) else []
        if entry in line:
            line.remove(entry)

    def emitted(self, request_id: str, client: bytes, reply: dict[str, Any], now: float) -> None:
        """The broker sent a reply."""
        entry = self.entries.get(request_id)
        if entry is None:
            self.fail(now, f"a reply to {request_id!r}, which nobody asked")
            return
        if client != entry.client:
            self.fail(now, f"{request_id} of {entry.client!r} was answered to {client!r}")
        if reply["state"] == "accepted":
            entry.accepted += 1
        elif reply["state"] != "progress":
            entry.finals.append((now, verdict(reply)))
            self._leave_line(entry)
        if len(entry.finals) + entry.accepted > len(entry.arrived):
            self.fail(now, f"{request_id}: {len(entry.finals)} finals for {len(entry.arrived)} askings")
        told = {verdict for _, verdict in entry.finals} - {"QUEUE_FULL"}
        if entry.action.stored and len(told) > 1:
            self.fail(now, f"{request_id} was told {sorted(told)}")

    # what must have happened

    def check_late(self, now: float, up_since: float, patience: float) -> None:
        """No command waits in a broker past its deadline and the grace."""
        for entry in self.entries.values():
            if entry.settled_at is not None or not entry.arrived or not entry.action.stored:
                continue
            came = max(entry.arrived[-1], up_since)
            ended = entry.kept_at is not None or (entry.finals and entry.finals[-1][0] >= entry.arrived[-1])
            if not ended and now > came + entry.timeout + patience:
                self.fail(now, f"{entry.request_id} is stuck: {now - came:.0f} s, timeout {entry.timeout:g} s")
                entry.settled_at = now

    def check_end(self, now: float) -> None:
        for entry in self.entries.values():
            if not entry.seen:
                self.fail(now, f"{entry.request_id} ({entry.action.name}) never got its final reply")


def verdict(reply: dict[str, Any]) -> str:
    """What a final reply says of the outcome."""
    error = reply.get("error")
    return "ok" if reply["success"] else str(error["code"])


def _keeps_line(entry: Entry) -> bool:
    """Is its place in a queue known from outside? That of a picture on a named device is."""
    return entry.action.name == "generate" and entry.payload.get("device_id", "") not in ("", "auto")


def _line(entry: Entry) -> tuple[str, str]:
    return str(entry.payload["device_id"]), str(entry.payload.get("priority", "Normal"))
