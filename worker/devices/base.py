"""What the rest of the worker knows of a device: build a model, move it, run it, read the memory.

The three kinds differ in where bytes lie and what counts them; actions, cache and session never ask which they have.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from modelfiles.contents import Content
from modelfiles.model import ModelFile
from protocol.checks import unsupported
from protocol.enums import ComponentType, LoadSource, ModelPrecision
from protocol.records import Record
from protocol.telemetry import DeviceIdentity
from ramtier.tier import RamTier
from worker.devices.readings import Gauge, Sensors
from worker.job import Job
from worker.pace import Pace
from worker.prefetch import Watch

UNAVAILABLE = {
    "enable_tensor_rt": "TensorRT is not part of this worker: it would need engines built for each model and card",
    "enable_onnx": "ONNX Runtime is not part of this worker: it would need the model exported to ONNX",
}
"""Flags that no device here can have, and what would be needed."""


class PartBytes(Record, frozen=True, kw_only=True):
    """A component of a built model: bytes of its parameters and buffers.

    `key` is the same for models that share the component, "" where it is shared with none.
    """

    name: str
    type: ComponentType
    path: str
    bytes: int
    key: str = ""


class Streaming(enum.Enum):
    """Which weights wait in host memory and come onto the device for their use."""

    NONE = "none"
    PARTS = "parts"
    BLOCKS = "blocks"


class Rung(enum.Enum):
    """A way to draw with less memory; its value is what a client reads."""

    TILING = "VAE tiling"
    SLICING = "attention slicing"
    OFFLOADING = "CPU offloading"
    SPLITTING = "model splitting"


class Build(Record, frozen=True, kw_only=True):
    """How a model is to be built, and at which pace it is read; `config_path` "" where the file needs none.

    `compute` is what weights in fewer bits are widened to where they are used, else the same as `precision`.
    `anew`: from its files, whatever of it is here already.
    """

    file: ModelFile
    precision: ModelPrecision
    compute: ModelPrecision
    streaming: Streaming = Streaming.NONE
    config_path: str = ""
    pace: Pace = Pace()
    anew: bool = False


class Applied(Record, frozen=True, kw_only=True):
    """What became of a flag on a model: evidence where it acts, else why it does not."""

    evidence: dict[str, Any] | None = None
    reason: str | None = None


class DrawOrder(Record, frozen=True, kw_only=True):
    """A picture to draw: None means the model's own default. Sizes in pixels, one seed for each image.

    `control` is the file of a picture that the model's ControlNet follows, `control_field` what errors call it.
    `source` is the file of the picture to begin from, `mask` that of one that is white where to paint, `fields` what
    errors call the two.
    `loras` are the adapters, (name, scale), that act instead of those that act by themselves.
    `rung` is what it is drawn with to take less memory.
    `limit_bytes` bounds the model and its work together, 0 for no bound. `watched`: its peak is measured anew, although
    that of a run of its shape is known. `latents`: the drawing has what was denoised, too.
    """

    prompt: str
    negative_prompt: str
    width: int | None
    height: int | None
    steps: int | None
    guidance_scale: float | None
    seeds: list[int]
    scheduler: str = ""
    loras: tuple[tuple[str, float], ...] | None = None
    rung: tuple[Rung, ...] = ()
    source: bytes | None = None
    mask: bytes | None = None
    control: bytes | None = None
    control_field: str = "attachments[0]"
    fields: tuple[str, str] = ("attachments[0]", "attachments[1]")
    strength: float | None = None
    limit_bytes: int = 0
    watched: bool = False
    latents: bool = False
    max_side: int = 8192


class Raster(Record, frozen=True, kw_only=True):
    """An image: 3 bytes for each pixel, rows from the top."""

    width: int
    height: int
    rgb: bytes


class Drawing(Record, frozen=True, kw_only=True):
    """What a run made and measured; `peak_bytes` is weights and working memory, None where nothing measured it.

    `blackened` says of each image whether the model's safety checker did so, None where it has none. `latents` is an
    array of Float32 of what was denoised last, where that was asked for and there is one.
    """

    images: list[Raster]
    steps_done: int
    encode_ms: float | None = None
    denoise_ms: float | None = None
    decode_ms: float | None = None
    peak_bytes: int | None = None
    blackened: list[bool] | None = None
    latents: Any = None
    warnings: list[str] = []
    not_measured: dict[str, str] = {}


class Made(Record, frozen=True, kw_only=True):
    """A part that was read for a model and is not of it yet; `component` is the library's object."""

    part: PartBytes
    component: Any


CONTROLNET = "controlnet"
LORA, WORD = "lora:", "word:"
"""Begin the names of parts that are adapters, and of those that are words."""


def plain_name(part: str) -> str:
    """What a part is called: of an adapter or a word without what tells it from the model's parts."""
    return part.removeprefix(LORA).removeprefix(WORD)


WITHOUT_LAYERS = "a virtual model has bytes and times, and no layers"


class LostError(Exception):
    """A part that was to come out of the RAM tier is not there any more."""


class BuiltModel(ABC):
    """A model in host memory or on its device. Only the device thread touches it."""

    precision: ModelPrecision
    parts: list[PartBytes]
    contents: Sequence[Content] = ()
    """Every file that it was read from."""
    source: LoadSource = LoadSource.DISK
    """Where it came from; of several places the slowest."""

    rungs: frozenset[Rung] = frozenset()
    """How it can be drawn with less memory."""
    streamed_bytes: int | None = None
    """What a run has of its weights on the device at the most, where they wait in host memory; None: they lie there."""

    def read_lora(self, name: str, file: ModelFile, job: Job) -> Made:
        """An adapter for this model, in host memory. Raises Fault."""
        raise unsupported("component", WITHOUT_LAYERS)

    def read_word(self, word: str, file: ModelFile, job: Job) -> Made:
        """A word and its vectors, in host memory. Raises Fault."""
        raise unsupported("component", WITHOUT_LAYERS)

    def read_part(self, name: str, file: ModelFile, job: Job) -> Made:
        """A part of another file in the place of this model's own. Raises Fault."""
        raise unsupported("component", WITHOUT_LAYERS)

    def put(self, made: Made, scale: float | None = None) -> PartBytes | None:
        """Take another part, or one more, on the device where the model is there; the part that stood there.

        `scale` is the one at which an adapter acts by itself. Raises the device's `out_of_memory`, and is as it was.
        """
        raise unsupported("component", WITHOUT_LAYERS)

    def drop(self, name: str) -> PartBytes | None:
        """Be without a part; the one that stood there."""
        raise unsupported("component", WITHOUT_LAYERS)

    @property
    def replaced(self) -> list[str]:
        """The parts that are not its own."""
        return []

    @property
    def loras(self) -> dict[str, float]:
        """The adapters that it has, and the scale at which each acts by itself."""
        return {}

    @property
    def keys(self) -> list[str]:
        """What its parts are called in the RAM tier."""
        return [part.key for part in self.parts if part.key]

    @property
    def bytes(self) -> int:
        """Of its parts; one that stands in several places counts once."""
        return sum({part.key or part.name: part.bytes for part in self.parts}.values())

    @abstractmethod
    def claim(self) -> None:
        """It is about to be promoted: until `disclaim` its parts stay where they are, on the device with others, in the
        RAM tier or in host memory. Raises LostError, and claims nothing then.
        """

    @abstractmethod
    def disclaim(self) -> None:
        """A claim ends, whether or not a promotion followed."""

    @abstractmethod
    def promote(self, job: Job | None) -> None:
        """RAM tier or host memory to device. Raises the device's `out_of_memory`; then the model is where it was."""

    @abstractmethod
    def copy(self, *, evict: bool) -> Generator[None, None, bool]:
        """A copy of every part in the RAM tier, made between one step of this and the next; whether it is whole.

        Of one that is not, or that is closed half-way, nothing stays. `evict`: others may leave for it.
        """

    @abstractmethod
    def keep_copy(self) -> bool:
        """What the RAM tier has of it stays for it, if that is all of it; whether that is so."""

    @abstractmethod
    def demote(self) -> None:
        """Off the device; its copy in the RAM tier is all that there is."""

    @abstractmethod
    def step_aside(self) -> None:
        """Off the device into host memory, until it is promoted or released."""

    @abstractmethod
    def release(self) -> int:
        """Give back every byte, wherever it is. The bytes that left the RAM tier. The model is not used again."""

    def apply(self, flags: Sequence[str]) -> dict[str, Applied]:
        """Run under these flags of a configuration from here on, and under no other. What became of each."""
        return {flag: Applied(reason="its device has none of these") for flag in flags}

    def layers_by_type(self) -> dict[str, int]:
        """How many layers hold their weights in which type of torch's; empty where there are none."""
        return {}

    def save(self, place: Path, metadata: Mapping[str, str], job: Job) -> None:
        """Write it as a folder that is at `place` once it is whole. Raises Fault, OSError."""
        raise unsupported("save_optimized", WITHOUT_LAYERS)

    @abstractmethod
    def working_bytes(self, order: DrawOrder) -> int:
        """What a run is expected to need beside the weights: as measured in this shape, else derived."""

    @abstractmethod
    def draw(self, order: DrawOrder, job: Job) -> Drawing:
        """Run the pipeline. Raises Fault, and the device's `out_of_memory`."""

    @abstractmethod
    def mend(self) -> None:
        """Put back what a run that failed half-way left changed. Raises the device's `out_of_memory`."""


class Device(ABC):
    """One device. `start`, `build` and every model belong to the device thread; `gauge` and `sensors` to any."""

    precisions: ClassVar[tuple[ModelPrecision, ...]]
    """What the device can hold a model in."""

    out_of_memory: type[BaseException] = MemoryError
    """What a placement or a run beyond the device's memory raises; set by `start`."""

    ram: RamTier
    """Where models go that leave; set before `start`."""

    computes_well: tuple[ModelPrecision, ...] = (ModelPrecision.Float32,)
    """The precisions that `Auto` may choose; set by `start`."""

    counts_work: ClassVar[bool] = True
    """Whether a run's working memory is of the device's own."""

    @abstractmethod
    def identity(self) -> DeviceIdentity:
        """What the device is. Never changes, needs no libraries."""

    @abstractmethod
    def start(self) -> None:
        """Import what the device needs. Once, in the device thread."""

    @abstractmethod
    def gauge(self) -> Gauge:
        """The memory now. Never blocks on running work."""

    def in_use_bytes(self) -> int:
        """What weights and work take now, as closely as any thread can know."""
        return self.gauge().used

    @abstractmethod
    def sensors(self) -> Sensors:
        """The sensors now. Never blocks on running work."""

    @abstractmethod
    def glance(self) -> None:
        """Keep what the device thread alone may read, for `gauge`: called again and again while it works."""

    @abstractmethod
    def build(self, build: Build, job: Job, tell: Callable[[str, int], None]) -> BuiltModel:
        """Read a model into host memory, telling (stage, bytes so far). Raises Fault."""

    @abstractmethod
    def prefetch(self, build: Build, watch: Watch) -> int:
        """Read what neither its models nor the RAM tier have of a model into the tier, for nobody yet.

        The bytes brought. In a thread of its own, while no other builds. Raises Fault, Full, Stopped.
        """

    @abstractmethod
    def examine(self, build: Build, job: Job) -> int:
        """Build a model's parts without memory, and hold them against the shapes that its files have; how many parts.

        Raises Fault as `build` would.
        """

    @abstractmethod
    def computes(self) -> dict[ModelPrecision, str]:
        """Every type to compute in that was tried here, with the reason where it does not work, else ""."""

    @abstractmethod
    def operations_per_second(self, precision: ModelPrecision) -> float | None:
        """Floating-point operations of a large product in a type to compute in; None where nothing is computed."""

    @abstractmethod
    def capability(self) -> dict[str, str]:
        """What the device says of its own arithmetic, such as `compute_capability`."""

    @abstractmethod
    def software(self) -> dict[str, str]:
        """Versions of libraries, of the runtime and of the `driver`, where there is one."""

    def refuses(self, flag: str) -> str:
        """Why no model can have a flag of the configuration here; "" where one can."""
        return UNAVAILABLE.get(flag, "")

    def poisoned_by(self, error: BaseException) -> str:
        """Why nothing can run on the device in this process after such an error; "" where something can."""
        return ""

    @abstractmethod
    def tend(self) -> None:
        """What is to be done from time to time: give back what has been kept for reuse for long enough."""

    @abstractmethod
    def trim(self) -> None:
        """Give back to the system all that is kept for reuse."""

    @abstractmethod
    def reclaim(self) -> None:
        """Return what nothing holds any more to the device: after a release and after running out of memory."""
