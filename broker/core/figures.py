"""How long loads and runs take and how much memory they need: measured where they were, derived where they were not.

Averages are exponentially weighted (`WEIGHT` for the newest, plain means until then) and each knows from how many
measurements it comes; 0 is a derived figure. Devices of one make share what is measured on any of them. Without
measurements:

- a load takes `OVERHEAD_MS` and the weights' bytes by the make's measured rate, or the rate of `READ_RATES` and
  `PROMOTE_RATES`; a virtual model's profile says it exactly, and a load from RAM takes a tenth of it;
- a run takes steps x megapixels x images by what one such unit of this model took in other shapes, else by what a GiB
  of weights took on this make, else by `UNIT_MS`;
- a peak is the weights and, once any shape was measured, that working memory by the pixels of a batch.

Knows no clock, no devices and no files.
"""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from protocol import commands as c
from protocol.enums import DeviceKind, LoadSource, Tier
from protocol.link import PROFILE_RAM_SHARE, ModelRef, RunFacts

WEIGHT = 0.3
NOTEWORTHY = 0.02
"""A change of a mean, as a share of it, that changes what is derived from it."""

LOOK_AGAIN = 16
"""Measurements after which everything is derived anew although none of them changed much."""

OVERHEAD_MS = 50.0
"""Of any load: inspecting the file, building the modules, evicting."""

READ_RATES = {DeviceKind.CUDA.value: 1.0e6, DeviceKind.CPU.value: 1.0e6, DeviceKind.VIRTUAL.value: 1.0e6}
PROMOTE_RATES = {DeviceKind.CUDA.value: 1.0e7, DeviceKind.CPU.value: 3.0e6, DeviceKind.VIRTUAL.value: 1.0e7}
"""Bytes in a millisecond, from disk and from the RAM tier."""

UNIT_MS = {DeviceKind.CUDA.value: 80.0, DeviceKind.CPU.value: 20_000.0, DeviceKind.VIRTUAL.value: 20.0}
"""Of a step of one image of one megapixel, for each GiB of weights."""

PROFILE_STEPS = 20
"""Of a virtual model's run that names none."""

DEFAULT_STEPS = 30
DEFAULT_SIDE = 512
"""Of a model whose own side the catalogue does not know."""

ACTION_MS = {"validate_model": 500.0, "optimize_model": 20_000.0, "benchmark_model": 60_000.0}
OTHER_MS = 20.0
"""Of an action that was never timed."""

MOST_SHAPES = 32
GIB = 1 << 30


class Shape(NamedTuple):
    """What decides a run's time and memory; 0 where the command leaves it to the model. Pixels."""

    action: str
    width: int = 0
    height: int = 0
    steps: int = 0
    images: int = 1


def shape_of(command: c.Command, action: str) -> Shape:
    """The shape of a command's run."""
    if isinstance(command, c.Generate):
        return Shape(action, command.width or 0, command.height or 0, command.steps or 0, command.num_images)
    return Shape(action)


class Average(Struct, gc=False):
    """An exponentially weighted mean and the number of measurements behind it."""

    value: float = 0.0
    samples: int = 0

    def add(self, measured: float) -> bool:
        """Take in a measurement; is the mean another now, or may it be another by many small changes?"""
        self.samples += 1
        change = (measured - self.value) * max(WEIGHT, 1.0 / self.samples)
        before, self.value = self.value, self.value + change
        return abs(change) > NOTEWORTHY * before or not self.samples % LOOK_AGAIN


class Run(Struct, gc=False):
    """A measured shape; a peak rises at once and falls slowly."""

    ms: Average
    peak_bytes: int = 0

    def note_peak(self, measured: int) -> None:
        falling = int(self.peak_bytes + (measured - self.peak_bytes) * WEIGHT)
        self.peak_bytes = max(measured, falling)


class Rates(Struct):
    """A make of device: bytes in a millisecond from either tier, and the milliseconds of a unit for each GiB."""

    kind: str
    read: Average
    promote: Average
    unit_ms: Average
    version: int = 0
    """Grows with every change of a rate that is worth deriving everything anew."""

    def read_rate(self) -> float:
        return self.read.value if self.read.samples else READ_RATES[self.kind]

    def promote_rate(self) -> float:
        return self.promote.value if self.promote.samples else PROMOTE_RATES[self.kind]

    def note(self, rate: Average, measured: float) -> None:
        self.version += rate.add(measured)


class Measured(Struct, gc=False):
    """What is kept of one model on one make."""

    size_bytes: int
    disk: Average
    ram: Average
    unit_ms: Average
    runs: dict[Shape, Run]
    weights_bytes: int = 0
    default_steps: int = 0
    default_pixels: int = 0


class Outlook(Struct, frozen=True, gc=False):
    """What is expected of one shape of run: milliseconds and bytes, and the bytes in a millisecond from RAM.

    `working_bytes` is the peak without the weights; `certain_bytes` is not to be doubted, 0 where nothing is certain.
    """

    run_ms: float
    disk_ms: float
    ram_ms: float
    peak_bytes: int
    working_bytes: int
    certain_bytes: int
    promote_rate: float


class Figures:
    """What is expected of one model on one make of device."""

    __slots__ = ("_outlooks", "_profile", "_rates", "_version", "measured", "model")

    def __init__(self, model: ModelRef, rates: Rates, measured: Measured) -> None:
        self.model = model
        self._rates = rates
        self.measured = measured
        self._profile = model.profile
        self._outlooks: dict[Shape, Outlook] = {}
        self._version = 0

    def outlook(self, shape: Shape) -> Outlook:
        """Everything that a decision asks, kept until something new was measured on this make."""
        if self._version != self._rates.version:
            self._version = self._rates.version
            self._outlooks.clear()
        outlook = self._outlooks.get(shape)
        if outlook is None:
            if len(self._outlooks) >= MOST_SHAPES:
                self._outlooks.clear()
            peak = self.peak_bytes(shape)
            outlook = self._outlooks[shape] = Outlook(
                self.run_ms(shape),
                self.load_ms(Tier.DISK),
                self.load_ms(Tier.RAM),
                peak,
                max(0, peak - self.weights_bytes),
                self.certain_bytes(shape),
                self._rates.promote_rate(),
            )
        return outlook

    @property
    def weights_bytes(self) -> int:
        """Bytes of the model on the device: as measured, else as its file."""
        return self.measured.weights_bytes or self.model.size_bytes

    def load_ms(self, tier: Tier) -> float:
        """A load from the tier where the model is."""
        if tier is Tier.VRAM:
            return 0.0
        measured = self.measured.disk if tier is Tier.DISK else self.measured.ram
        if self._profile is not None:
            return self._profile.load_ms * (1.0 if tier is Tier.DISK else PROFILE_RAM_SHARE)
        if measured.samples:
            return measured.value
        rate = self._rates.read_rate() if tier is Tier.DISK else self._rates.promote_rate()
        return OVERHEAD_MS + self.weights_bytes / rate

    def run_ms(self, shape: Shape) -> float:
        """A run of this shape, without a load."""
        if shape.action == "load_model":
            return 0.0
        if self._profile is not None and shape.action == "generate":
            return self._profile.step_ms * (shape.steps or PROFILE_STEPS)
        run = self.measured.runs.get(shape)
        if run is not None and run.ms.samples:
            return run.ms.value
        if shape.action != "generate":
            return ACTION_MS.get(shape.action, OTHER_MS)
        return self._units(shape) * self._unit_ms()

    def peak_bytes(self, shape: Shape) -> int:
        """Weights and working memory of a run of this shape; of none: the weights."""
        if shape.action != "generate":
            return self.weights_bytes
        if self._profile is not None:
            return self._profile.peak_bytes
        run = self.measured.runs.get(shape)
        if run is not None and run.peak_bytes:
            return run.peak_bytes
        return self.weights_bytes + self._working_bytes(shape)

    def certain_bytes(self, shape: Shape) -> int:
        """What this shape needs for certain: a profile's figure; else 0, for options may change what was measured."""
        return self.peak_bytes(shape) if self._profile is not None else 0

    def run_peak_bytes(self) -> int:
        """The highest peak of any shape; before any run the weights and what the family's formula adds to them."""
        if self._profile is not None:
            return self._profile.peak_bytes
        peaks = [run.peak_bytes for run in self.measured.runs.values() if run.peak_bytes]
        return max(peaks, default=self.weights_bytes + self.model.working_bytes)

    def step_ms(self) -> float | None:
        """A step of one picture of the native side; None before any run."""
        if self._profile is not None:
            return self._profile.step_ms
        if not self.measured.unit_ms.samples:
            return None
        side = self.model.native_side or DEFAULT_SIDE
        return self.measured.unit_ms.value * side * side / 1e6

    def load_samples(self, tier: Tier) -> int:
        """How many measurements are behind `load_ms`."""
        return (self.measured.disk if tier is Tier.DISK else self.measured.ram).samples

    def run_samples(self, shape: Shape) -> int:
        """How many measurements are behind `run_ms`."""
        run = self.measured.runs.get(shape)
        return run.ms.samples if run is not None else 0

    def learn(self, shape: Shape, facts: RunFacts) -> None:
        """Take in what a worker measured."""
        record = self.measured
        if facts.weights_bytes and facts.weights_bytes != record.weights_bytes:
            record.weights_bytes = facts.weights_bytes
            self._outlooks.clear()
        if facts.load_ms is not None and facts.source in (LoadSource.DISK, LoadSource.RAM):
            self._learn_load(facts.load_ms, facts.source)
        if facts.run_ms is not None and shape.action == "generate":
            self._learn_run(shape, facts.run_ms, facts)

    def learn_elapsed(self, shape: Shape, elapsed_ms: float) -> None:
        """Take in how long an action took that measures nothing itself."""
        if self._run(shape).ms.add(elapsed_ms):
            self._outlooks.clear()

    def _learn_load(self, load_ms: float, source: LoadSource) -> None:
        disk = source is LoadSource.DISK
        if (self.measured.disk if disk else self.measured.ram).add(load_ms):
            self._outlooks.clear()
        rate = self._rates.read if disk else self._rates.promote
        self._rates.note(rate, self.weights_bytes / max(load_ms - OVERHEAD_MS, load_ms / 2, 0.001))

    def _learn_run(self, shape: Shape, run_ms: float, facts: RunFacts) -> None:
        record, run = self.measured, self._run(shape)
        before = (run.peak_bytes, record.default_steps, record.default_pixels)
        if facts.peak_bytes:
            run.note_peak(facts.peak_bytes)
        if facts.steps and not shape.steps:
            record.default_steps = facts.steps
        if facts.width and facts.height and not (shape.width or shape.height):
            record.default_pixels = facts.width * facts.height
        unit_ms = run_ms / self._units(shape)
        changed = run.ms.add(run_ms) | record.unit_ms.add(unit_ms)
        if changed or before != (run.peak_bytes, record.default_steps, record.default_pixels):
            self._outlooks.clear()
        self._rates.note(self._rates.unit_ms, unit_ms * GIB / max(self.weights_bytes, 1))

    def _run(self, shape: Shape) -> Run:
        runs = self.measured.runs
        run = runs.get(shape)
        if run is None:
            if len(runs) >= MOST_SHAPES:
                del runs[next(iter(runs))]
            run = runs[shape] = Run(ms=Average())
        return run

    def _units(self, shape: Shape) -> float:
        steps = shape.steps or self.measured.default_steps or DEFAULT_STEPS
        return steps * self._pixels(shape) * shape.images / 1e6

    def _pixels(self, shape: Shape) -> int:
        """Of one image."""
        side = self.model.native_side or DEFAULT_SIDE
        if not (shape.width or shape.height):
            return self.measured.default_pixels or side * side
        return (shape.width or side) * (shape.height or side)

    def _unit_ms(self) -> float:
        if self.measured.unit_ms.samples:
            return self.measured.unit_ms.value
        unit = self._rates.unit_ms.value if self._rates.unit_ms.samples else UNIT_MS[self._rates.kind]
        return unit * self.weights_bytes / GIB

    def _working_bytes(self, shape: Shape) -> int:
        """The least that any measured shape lets expect: its own working memory, more where it has fewer pixels."""
        wanted = self._pixels(shape) * shape.images
        working = [
            (run.peak_bytes - self.weights_bytes) * max(1.0, wanted / (self._pixels(known) * known.images))
            for known, run in self.measured.runs.items()
            if run.peak_bytes > self.weights_bytes
        ]
        return int(min(working, default=0))


def is_profile(model: ModelRef) -> bool:
    """Is the model a profile for virtual devices?"""
    return model.path.endswith(".vmodel.json")
