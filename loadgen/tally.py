"""What became of the commands: counts and HDR histograms, in microseconds, of one process; tallies of several add up.

Knows nothing of time: what happened is told to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from hdrh.histogram import HdrHistogram
from msgspec import Struct, field

LOWEST_US, HIGHEST_US, DIGITS = 1, 6 * 3_600_000_000, 3
"""A microsecond to six hours, within a thousandth."""

STAGE = "stage "
"""How the names of stages begin, which count what actions count once more."""

UNASKED = "unasked"
"""Answers to commands that had one, or had timed out."""

MOST_SPANS = 4000
"""Of work on devices, kept for a picture of it."""


class Span(Struct, frozen=True, array_like=True):
    """Work on a device: seconds since the start when it began and ended, and how much of that was a load's."""

    device_id: str
    began: float
    ended: float
    load_seconds: float


class Packed(Struct, frozen=True, kw_only=True):
    """A tally as it travels between processes."""

    counts: dict[str, dict[str, int]]
    histograms: dict[str, bytes]
    seconds: dict[int, dict[str, int]]
    spans: list[Span]
    errors: dict[str, int] = {}
    examples: dict[str, str] = {}
    sent_to: dict[str, int] = field(default_factory=dict)


class Tally:
    """Counts by action and outcome, histograms by name, what was sent and answered in each second."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.seconds: dict[int, Counter[str]] = {}
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.devices: Counter[str] = Counter()
        self.spans: list[Span] = []
        self._histograms: dict[str, HdrHistogram] = {}

    def count(self, action: str, outcome: str, number: int = 1) -> None:
        """So many commands of an action came to an outcome."""
        found = self.counts.get(action)
        if found is None:
            found = self.counts[action] = Counter()
        found[outcome] += number

    def at_second(self, second: int, what: str, number: int = 1) -> None:
        """Something happened in a second of the run."""
        found = self.seconds.get(second)
        if found is None:
            found = self.seconds[second] = Counter()
        found[what] += number

    def measure(self, name: str, seconds: float) -> None:
        """A time into the histogram of this name."""
        histogram = self._histograms.get(name)
        if histogram is None:
            histogram = self._histograms[name] = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
        histogram.record_value(min(max(int(seconds * 1e6), LOWEST_US), HIGHEST_US))

    def fail(self, code: str, message: str) -> None:
        """A command failed with this code; one message of each is kept."""
        self.errors[code] += 1
        self.examples.setdefault(code, message)

    def span(self, span: Span) -> None:
        """Work on a device; those beyond the bound are not kept."""
        if len(self.spans) < MOST_SPANS:
            self.spans.append(span)

    def histogram(self, name: str) -> HdrHistogram | None:
        """The histogram of a name; None where nothing was measured."""
        return self._histograms.get(name)

    def names(self) -> Iterator[str]:
        """What there are histograms of."""
        yield from self._histograms

    def total(self, outcome: str) -> int:
        """How many commands of all actions came to it."""
        return sum(found[outcome] for name, found in self.counts.items() if not name.startswith(STAGE))

    def pack(self) -> Packed:
        """All of it, to be sent."""
        return Packed(
            counts={action: dict(found) for action, found in self.counts.items()},
            histograms={name: histogram.encode() for name, histogram in self._histograms.items()},
            seconds={second: dict(found) for second, found in self.seconds.items()},
            spans=self.spans,
            errors=dict(self.errors),
            examples=self.examples,
            sent_to=dict(self.devices),
        )

    def add(self, packed: Packed) -> None:
        """What another process counted, on top of this."""
        for action, found in packed.counts.items():
            for outcome, number in found.items():
                self.count(action, outcome, number)
        for second, happened in packed.seconds.items():
            for what, number in happened.items():
                self.at_second(second, what, number)
        for name, encoded in packed.histograms.items():
            histogram = self._histograms.get(name)
            if histogram is None:
                histogram = self._histograms[name] = HdrHistogram(LOWEST_US, HIGHEST_US, DIGITS)
            histogram.decode_and_add(encoded)
        self.errors.update(packed.errors)
        self.devices.update(packed.sent_to)
        for code, message in packed.examples.items():
            self.examples.setdefault(code, message)
        for span in packed.spans:
            self.span(span)
