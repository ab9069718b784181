"""The commands that wait for one device: by priority, and within a priority fair between clients.

Each client has its own line; lines take turns. What is urgent by nature (a forced unload) goes before all.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, islice

from broker.core.jobs import Job
from protocol.enums import LoadPriority

MOST_PASSES = 3
"""How often a command may be passed because its model is not there yet."""

MOST_LINES = 64
"""Lines looked through for a command whose model is there."""

BY_PRIORITY = (LoadPriority.Critical, LoadPriority.High, LoadPriority.Normal, LoadPriority.Low)


class DeviceQueue:
    """Waiting jobs of one device. `pop` and `push` cost the same however many wait."""

    def __init__(self) -> None:
        self._urgent: deque[Job] = deque()
        self._lines: dict[LoadPriority, OrderedDict[bytes, deque[Job]]] = {
            level: OrderedDict() for level in BY_PRIORITY
        }
        self._models: Counter[str] = Counter()
        self._length = 0
        self._by_priority = dict.fromkeys(BY_PRIORITY, 0)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Job]:
        """Jobs by priority; within one, line by line."""
        yield from self._urgent
        for level in BY_PRIORITY:
            for line in self._lines[level].values():
                yield from line

    def push(self, job: Job) -> None:
        """At the end of its client's line."""
        self._lines[job.command.priority].setdefault(job.client, deque()).append(job)
        self._came(job)

    def push_urgent(self, job: Job) -> None:
        """Before everything that is not urgent itself."""
        self._urgent.append(job)
        self._came(job)

    def pop(self, is_warm: Callable[[Job], bool] = lambda _: True) -> Job | None:
        """The next job: urgent, else of the highest priority's next line.

        Where that one's model would have to be loaded first, the first of another line whose model is there goes before
        it: three times at most, and never out of order within its own line.
        """
        if self._urgent:
            job = self._urgent.popleft()
            self._left(job)
            return job
        for level in BY_PRIORITY:
            lines = self._lines[level]
            if lines:
                client, line = self._turn(lines, is_warm)
                job = line.popleft()
                lines.move_to_end(client)
                if not line:
                    del lines[client]
                self._left(job)
                return job
        return None

    def _turn(self, lines: OrderedDict[bytes, deque[Job]], is_warm: Callable[[Job], bool]) -> tuple[bytes, deque[Job]]:
        """Whose turn it is: the first line's, or that of a warm one that passes it."""
        first = next(iter(lines.items()))
        head = first[1][0]
        if len(lines) == 1 or head.passed >= MOST_PASSES or is_warm(head):
            return first
        for client, line in islice(lines.items(), 1, 1 + MOST_LINES):
            if is_warm(line[0]):
                head.passed += 1
                if head.decision is not None:
                    head.decision.passes = head.passed
                return client, line
        return first

    def remove(self, job: Job) -> bool:
        """Take a job out of its line; False where it does not wait here."""
        if job in self._urgent:
            self._urgent.remove(job)
            self._left(job)
            return True
        lines = self._lines[job.command.priority]
        line = lines.get(job.client)
        if line is None or job not in line:
            return False
        line.remove(job)
        if not line:
            del lines[job.client]
        self._left(job)
        return True

    def upcoming(self, most: int) -> Iterator[Job]:
        """The first of each line, then the second ones: about the order in which they are begun, `most` of them."""
        found = chain(self._urgent, *(_across(self._lines[level].values(), most) for level in BY_PRIORITY))
        return islice(found, most)

    def waits_for(self, model_id: str) -> bool:
        """Does anything wait here for this model?"""
        return model_id in self._models

    def waiting(self) -> dict[LoadPriority, int]:
        """How many wait, by priority; none is left out."""
        return self._by_priority

    def oldest(self) -> float | None:
        """When the job that waits longest arrived; a line is in order of arrival."""
        heads = [job.arrived for job in self._urgent]
        heads += [line[0].arrived for level in BY_PRIORITY for line in self._lines[level].values()]
        return min(heads, default=None)

    def _came(self, job: Job) -> None:
        self._length += 1
        self._by_priority[job.command.priority] += 1
        self._models[job.model_id] += 1

    def _left(self, job: Job) -> None:
        self._length -= 1
        self._by_priority[job.command.priority] -= 1
        self._models[job.model_id] -= 1
        if not self._models[job.model_id]:
            del self._models[job.model_id]

    def position(self, job: Job) -> int | None:
        """How many go before a job, as the queue stands; None where it does not wait here."""
        for index, waiting in enumerate(self._in_turn()):
            if waiting is job:
                return index
        return None

    def _in_turn(self) -> Iterator[Job]:
        yield from self._urgent
        for level in BY_PRIORITY:
            lines = [list(line) for line in self._lines[level].values()]
            for turn in range(max((len(line) for line in lines), default=0)):
                yield from (line[turn] for line in lines if turn < len(line))


def _across(lines: Iterable[deque[Job]], most: int) -> Iterator[Job]:
    """The first of at most so many lines, then the second ones, and so on."""
    heads = [list(islice(line, most)) for line in islice(lines, most)]
    for turn in range(max((len(line) for line in heads), default=0)):
        yield from (line[turn] for line in heads if turn < len(line))
