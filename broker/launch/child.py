"""One process that is kept alive: the module it runs, its incarnation, and what is known of that incarnation."""

from __future__ import annotations

from broker.launch.local import LocalProcess
from broker.restarts import RestartPolicy


class Child:
    """A child and its deaths. `start_at` is when the next incarnation is due, None while none is."""

    def __init__(self, name: str, module: str, policy: RestartPolicy) -> None:
        self.name = name
        self.module = module
        self.policy = policy
        self.process: LocalProcess | None = None
        self.generation = 0
        self.restarts = 0
        self.started_at = 0.0
        self.start_at: float | None = 0.0
        self.ready = False
        self.served = False
        self.drained = False
        self.replace = ""
        self.condemned = ""
        self.recycling = False
        self.last_words = ""

    @property
    def given_up(self) -> bool:
        """Is its breaker open?"""
        return self.process is None and self.start_at is None

    def begin(self, process: LocalProcess, now: float) -> None:
        """An incarnation runs."""
        self.process = process
        self.started_at = now
        self.ready = self.served = self.recycling = False
        self.replace = self.condemned = ""

    def bury(self, reason: str, now: float) -> float | None:
        """Its process is gone; the seconds until the next, None where the breaker opened."""
        assert self.process is not None
        reason = self.condemned or reason
        self.process.close()
        self.process = None
        if self.replace:
            wait: float | None = 0.0
            self.policy.close()
            reason = self.replace
        else:
            wait = self.policy.wait_seconds(now, served=self.ready and self.served)
        if wait is None:
            stage = "without having served anything" if self.ready else "before it was ready"
            reason = f"it died {self.policy.failures} times, last {stage}: {reason}"
        self.start_at = None if wait is None else now + wait
        self.restarts += 1
        self.last_words = reason
        return wait

    def condemn(self, reason: str) -> None:
        """End what runs; the reason is what is said of its death, not the signal."""
        self.condemned = reason
        if self.process is not None:
            self.process.kill()

    def revive(self, reason: str, now: float) -> None:
        """Start afresh, with its failures forgiven: end what runs, close the breaker."""
        self.policy.close()
        if self.process is not None:
            self.replace = reason
            self.process.kill()
        else:
            self.start_at = now
