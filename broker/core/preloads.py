"""The models that the operator wants loaded without anybody asking: at the start, and again after their worker died.

Decides when each is due. It is loaded once on each incarnation of a worker: what others evict, or somebody unloads, is
not fought over. What fails is named in the log and tried again later, or once its file is another.
"""

from __future__ import annotations

from collections.abc import Callable

from broker.core.context import Context
from broker.core.dispatch import Dispatch
from broker.core.fleet import Device
from broker.core.jobs import Job
from protocol import commands as c
from protocol.enums import ModelPrecision, PressureLevel, Tier
from protocol.link import ModelRef
from protocol.records import ModelLoadConfiguration
from protocol.supervision import Preload

ALL = "all"
FIRST_WAIT_SECONDS = 5.0
LONGEST_WAIT_SECONDS = 300.0


class _Entry:
    """One model on one device, or wherever it is placed: `device_id` ""."""

    def __init__(self, wish: Preload, device_id: str) -> None:
        self.wish = wish
        self.device_id = device_id
        self.under_way = False
        self.done: tuple[str, int] | None = None
        """The device that has loaded it, and the incarnation of its worker."""
        self.refused: ModelRef | None = None
        """The model as the catalogue had it when its load was refused for good."""
        self.next_at = 0.0
        self.wait = FIRST_WAIT_SECONDS
        self.said = ""

    @property
    def fields(self) -> dict[str, str]:
        return {"model": self.wish.model, "device": self.device_id or "any"}


class Preloads:
    """Keeps the list loaded; `route` places a job as a client's would be."""

    def __init__(self, context: Context, dispatch: Dispatch, route: Callable[[Job], None]) -> None:
        self._context = context
        self._dispatch = dispatch
        self._route = route
        self._entries = [
            _Entry(wish, device_id)
            for wish in context.spec.preload
            for device_id in (context.fleet.devices if wish.device == ALL else (wish.device,))
        ]

    def look(self, now: float) -> None:
        """Begin the loads that are due; once the catalogue and what survived a broker are known."""
        context = self._context
        if not self._entries or context.draining or context.survivors or not context.catalogue.ready:
            return
        for entry in self._entries:
            if not entry.under_way and now >= entry.next_at and self._due(entry):
                self._begin(entry, now)

    def _due(self, entry: _Entry) -> bool:
        known = self._context.catalogue.models.get(entry.wish.model)
        if known is None:
            nearest = self._context.catalogue.nearest(entry.wish.model)
            self._say(entry, "a model to be preloaded is not in the catalogue", nearest=nearest)
            return False
        if entry.device_id and self._context.fleet.find(entry.device_id) is None:
            self._say(entry, "a model is to be preloaded on a device that there is not")
            return False
        return known != entry.refused and not self._stands(entry) and any(map(_works, self._devices(entry)))

    def _devices(self, entry: _Entry) -> list[Device]:
        fleet = self._context.fleet
        named = fleet.find(entry.device_id) if entry.device_id else None
        return [named] if named is not None else list(fleet.devices.values())

    def _stands(self, entry: _Entry) -> bool:
        """Whether the worker that loaded it still lives, or another holds it where any will do."""
        if entry.done is not None:
            device_id, generation = entry.done
            if self._context.fleet.devices[device_id].generation == generation:
                return True
        return not entry.device_id and any(
            device.tier_of(entry.wish.model) is Tier.VRAM for device in self._devices(entry)
        )

    def _begin(self, entry: _Entry, now: float) -> None:
        wish = entry.wish
        configuration = None
        if wish.precision is not ModelPrecision.Auto:
            configuration = ModelLoadConfiguration(precision=wish.precision)
        command = c.LoadModel(
            model_id=wish.model,
            device_id=entry.device_id,
            configuration=configuration,
            loading_strategy=wish.loading_strategy,
            keep_alive=wish.keep_alive,
            pin=wish.pin,
            priority=wish.priority,
        )
        job = self._dispatch.house_command(command, f"preload {wish.model}", now)
        job.on_final = lambda done, at: self._ended(entry, done, at)
        entry.under_way = True
        self._route(job)

    def _ended(self, entry: _Entry, job: Job, now: float) -> None:
        entry.under_way = False
        error = self._dispatch.outcome(job).error
        if error is None:
            device = self._context.fleet.devices[job.device_id]
            entry.done, entry.refused, entry.said, entry.wait = (
                (device.device_id, device.generation),
                None,
                "",
                FIRST_WAIT_SECONDS,
            )
            self._context.log("info", "preloaded", model=entry.wish.model, device=device.device_id)
            return
        entry.next_at = now + entry.wait
        entry.wait = min(2 * entry.wait, LONGEST_WAIT_SECONDS)
        if not error.retryable:
            entry.refused = job.model
        self._say(entry, f"a model could not be preloaded: {error.message}", code=error.code.value)

    def _say(self, entry: _Entry, text: str, **fields: object) -> None:
        """A line for the operator; the same one once."""
        if entry.said != text:
            entry.said = text
            self._context.log("warning", text, **entry.fields, **fields)


def _works(device: Device) -> bool:
    """Whether a device takes work, and is not so short of memory that nothing is to be brought unasked."""
    pressure = device.telemetry.memory_pressure.level if device.telemetry is not None else PressureLevel.NORMAL
    if pressure in (PressureLevel.HIGH, PressureLevel.CRITICAL):
        return False
    return device.ready and device.worker is not None and not (device.disabled or device.drained)
