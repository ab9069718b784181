"""What it takes to bring a model back that leaves the device, by what loads took here.

A profile says it itself. Else it is the mean of this model's last loads from the tier that it would fall to; before any
its bytes by the device's rate from there, the mean of all models' last loads.
"""

from __future__ import annotations

from protocol.enums import LoadSource
from protocol.link import PROFILE_RAM_SHARE
from ramtier.tier import RamTier
from worker.resident import Resident

REMEMBERED = 5
RATES = {LoadSource.DISK: 1e6, LoadSource.RAM: 3e6}
"""Bytes in a millisecond, where nothing was loaded yet."""


class Reloads:
    """Milliseconds and rates of one device's loads. Any thread may ask."""

    def __init__(self, ram: RamTier) -> None:
        self._ram = ram
        self._models: dict[tuple[str, LoadSource], tuple[float, ...]] = {}
        self._rates: dict[LoadSource, tuple[float, ...]] = {}

    def note(self, resident: Resident, source: LoadSource, load_ms: float) -> None:
        """A load of a model from a tier; what was on the device already is none."""
        if source not in RATES:
            return
        key, rate = (resident.model_id, source), resident.bytes / max(load_ms, 0.001)
        self._models[key] = (*self._models.get(key, ()), load_ms)[-REMEMBERED:]
        self._rates[source] = (*self._rates.get(source, ()), rate)[-REMEMBERED:]

    def expected_ms(self, resident: Resident) -> float:
        """A load of a model on the device, once it has left it."""
        source = self._falls_to(resident)
        profile = resident.file.profile
        if profile is not None:
            return profile.load_ms * (PROFILE_RAM_SHARE if source is LoadSource.RAM else 1.0)
        own = self._models.get((resident.model_id, source))
        if own:
            return sum(own) / len(own)
        rates = self._rates.get(source, (RATES[source],))
        return resident.bytes / (sum(rates) / len(rates))

    def _falls_to(self, resident: Resident) -> LoadSource:
        kept = resident.keeps_ram_copy and (resident.copied or resident.bytes <= self._ram.budget_bytes)
        return LoadSource.RAM if kept else LoadSource.DISK
