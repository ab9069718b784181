"""What the rooms of the core share: the tables, the clocks, and the list of effects of the event at hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from broker.core.bulletin import Bulletin
from broker.core.catalogue import Catalogue
from broker.core.census import Census
from broker.core.coalescing import Coalescing
from broker.core.conventions import ConnectionConventions
from broker.core.decision import Decisions
from broker.core.estimates import Estimates
from broker.core.events import Effect, Log
from broker.core.finals import Store
from broker.core.fleet import Fleet
from broker.core.jobs import Job, Jobs
from broker.core.quotas import Quotas
from broker.core.retries import Quarantine
from broker.core.timers import Timers
from protocol.replies import Limits
from protocol.supervision import BrokerSpec


class Context:
    """`clock` gives seconds that only grow, `wall` the time of day, `new_id` a request id; `store` keeps finals."""

    def __init__(
        self,
        spec: BrokerSpec,
        epoch: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], datetime],
        new_id: Callable[[], str],
        store: Store,
    ) -> None:
        self.spec = spec
        self.limits: Limits = spec.limits
        self.epoch = epoch
        self.clock = clock
        self.wall = wall
        self.new_id = new_id
        self.fleet = Fleet(spec.devices)
        self.jobs = Jobs()
        self.store = store
        self.estimates = Estimates()
        self.decisions = Decisions()
        self.timers = Timers()
        self.catalogue = Catalogue()
        self.conventions = ConnectionConventions()
        self.effects: list[Effect] = []
        self.bulletin = Bulletin(epoch, wall, self.emit)
        self.draining = False
        self.quarantine = Quarantine(wall)
        self.census = Census()
        self.quotas = Quotas(spec.quota, spec.quotas)
        self.coalescing = Coalescing()
        self.leaderless: list[Job] = []
        self.undecided: dict[str, Job] = {}
        """What waits for the catalogue or for surviving workers, by request id."""
        self.survivors = set(spec.survivors)
        self.queue_changed = False
        self.devices_changed = True

    def emit(self, effect: Effect) -> None:
        """Ask for something to be done."""
        self.effects.append(effect)

    def log(self, level: str, event: str, **fields: Any) -> None:
        """A line for the operator."""
        self.emit(Log(level, event, fields))
