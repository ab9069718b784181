"""Every command of a run: when it was sent, how often, what came back. Says what was lost, doubled, stuck or wrong.

Pure: it is told of moments and frames. A command that was sent again, with its id, may be answered again; the answers
are then of one outcome, or it ran twice.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from protocol.errors import ErrorCode

EXPECTED = frozenset(
    code.value
    for code in (
        ErrorCode.WORKER_LOST,
        ErrorCode.INSUFFICIENT_MEMORY,
        ErrorCode.QUEUE_FULL,
        ErrorCode.CANCELLED,
        ErrorCode.DEVICE_UNAVAILABLE,
        ErrorCode.MODEL_IN_USE,
        ErrorCode.TIMEOUT,
        ErrorCode.MODEL_CORRUPTED,
        ErrorCode.SUPERSEDED,
    )
)
"""Errors that faults, bounds and cancels bring by right; any other is a finding."""

MOST_NAMED = 20


class Outcome(Struct, frozen=True):
    """A final reply: how it ended, the seed that was used, the digests of its pictures."""

    state: str
    code: str
    seed: int | None
    digests: tuple[str, ...]


class Entry(Struct):
    """One command. `drawn`: what makes its pictures; commands that have it in common draw the same bytes."""

    request_id: str
    action: str
    sent_at: float
    drawn: tuple[str, ...] | None = None
    sendings: int = 1
    connection: int = 0
    finals: list[tuple[float, Outcome]] = []
    abandoned: bool = False


class Finding(Struct, frozen=True, kw_only=True):
    """Something that must not be, and the command that it was seen on."""

    kind: str
    request_id: str
    text: str


class Ledger:
    """The only place where commands are kept."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self._pictures: dict[tuple[str, ...], tuple[str, tuple[str, ...]]] = {}
        self._findings: list[Finding] = []
        self._open: dict[str, Entry] = {}

    def sent(self, entry: Entry) -> None:
        """A command was sent for the first time."""
        self.entries[entry.request_id] = self._open[entry.request_id] = entry
        self.counts["sent"] += 1

    def sent_again(self, request_id: str, connection: int) -> None:
        """It was sent again, with its id."""
        entry = self.entries[request_id]
        entry.sendings += 1
        entry.connection = connection
        self.counts["sent again"] += 1

    def abandon(self, request_id: str) -> None:
        """Its connection went on purpose, and nobody asks for it again: an answer is allowed, and not needed."""
        entry = self._open.pop(request_id, None)
        if entry is not None:
            entry.abandoned = True
            self.counts["abandoned"] += 1

    def open(self) -> list[Entry]:
        """What has no final answer yet, oldest first."""
        return list(self._open.values())

    def answered(self, request_id: str, outcome: Outcome, at: float) -> None:
        """A final reply came."""
        entry = self.entries.get(request_id)
        if entry is None:
            self._find("unknown", request_id, "an answer to a command that was never sent")
            return
        self._open.pop(request_id, None)
        if entry.finals:
            self._again(entry, outcome)
        else:
            self._first(entry, outcome)
        entry.finals.append((at, outcome))

    def _first(self, entry: Entry, outcome: Outcome) -> None:
        self.counts[outcome.state] += 1
        if outcome.code:
            self.errors[outcome.code] += 1
            if outcome.code not in EXPECTED:
                self._find("error", entry.request_id, f"{entry.action} ended with {outcome.code}")
        if entry.drawn is not None and outcome.state == "completed":
            known = self._pictures.setdefault(entry.drawn, (entry.request_id, outcome.digests))
            if known[1] != outcome.digests:
                what = " ".join(entry.drawn)
                self._find("wrong picture", entry.request_id, f"{what}: other bytes than those of {known[0]}")

    def _again(self, entry: Entry, outcome: Outcome) -> None:
        """A second final: only to a second sending, and of the same outcome."""
        if len(entry.finals) >= entry.sendings:
            self._find("doubled", entry.request_id, f"answered {len(entry.finals) + 1} times, sent {entry.sendings}")
        elif entry.finals[-1][1] != outcome:
            first = entry.finals[-1][1]
            text = f"ran twice: {first.state} seed {first.seed}, then {outcome.state} seed {outcome.seed}"
            self._find("doubled", entry.request_id, text)

    def close(self) -> None:
        """The run is over: what is still open was lost."""
        for entry in self.open():
            again = f", sent {entry.sendings} times" if entry.sendings > 1 else ""
            self._find("lost", entry.request_id, f"{entry.action} was never answered{again}")
            self.counts["lost"] += 1

    def findings(self, *kinds: str) -> list[Finding]:
        """What was found, of these kinds."""
        return [finding for finding in self._findings if finding.kind in kinds]

    def _find(self, kind: str, request_id: str, text: str) -> None:
        self._findings.append(Finding(kind=kind, request_id=request_id, text=text))
