"""What the cpu and the cuda device share: real models of diffusers, held in host memory or on the device.

Decides what is imported when; where bytes lie and how a run is measured is the subclass's affair.
"""

from __future__ import annotations

import gc
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from modelfiles.model import Kind, ModelFile
from modelfiles.paths import Roots
from protocol.enums import ModelPrecision
from protocol.errors import ErrorCode, Fault
from protocol.link import WorkerSpec
from protocol.version import VERSION
from settings import host
from worker.devices.base import Build, BuiltModel, Device, Made
from worker.job import Job
from worker.prefetch import Watch
from worker.staging import Staging, clear_leftovers

if TYPE_CHECKING:
    import torch

    from worker.arena import Kept
    from worker.components import Component, Components
    from worker.pipelines import Pipelines
    from worker.streaming import Piece


KEPT_SHARE = 8
"""One of so many parts of the host's memory is kept for reuse at the most."""


NOT_YET = {
    "enable_compilation": "this worker runs models without compilation",
}


class RunMeter:
    """What a watched run needed: `peak_bytes` of weights and work, None where nothing measured it."""

    def __init__(self) -> None:
        self.peak_bytes: int | None = None


class TorchDevice(Device):
    """A device that torch computes on."""

    precisions: ClassVar[tuple[ModelPrecision, ...]] = (
        ModelPrecision.Float32,
        ModelPrecision.Float16,
        ModelPrecision.BFloat16,
        ModelPrecision.Float8,
        ModelPrecision.Int8,
        ModelPrecision.Int4,
    )

    components: Components
    """Every module that models hold here; set by `start`."""

    kept: Kept | None = None
    """Memory that waits for the next load; set by `start`."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._roots = Roots(spec.model_roots)
        self._runtime = Path(spec.runtime)
        self._device_id = spec.device_id
        self._tried: dict[ModelPrecision, str] = {}
        self._rates: dict[ModelPrecision, float] = {}

    def start(self) -> None:
        import torch  # noqa: PLC0415 - the environment has to be pinned first

        # They import diffusers: before the first command.
        from worker import arena, components, loader, parts, running  # noqa: F401, PLC0415

        parts.import_classes()
        self.kept = arena.KEPT
        self.kept.limit_bytes = host.memory_bytes() // KEPT_SHARE
        self.components = components.Components(self.ram)
        clear_leftovers(self._runtime, self._device_id)
        self.out_of_memory = torch.OutOfMemoryError
        self.open()
        # What the imports made stays: no collection has to look at it again.
        gc.collect()
        gc.freeze()

    def build(self, build: Build, job: Job, tell: Callable[[str, int], None]) -> BuiltModel:
        from worker.configurations import configuration_of  # noqa: PLC0415
        from worker.loader import load  # noqa: PLC0415
        from worker.reader import Reader  # noqa: PLC0415
        from worker.running import TorchModel  # noqa: PLC0415
        from worker.stock import Stock  # noqa: PLC0415

        if build.file.kind is Kind.VIRTUAL:
            raise Fault(ErrorCode.MODEL_INCOMPATIBLE, "a .vmodel.json profile runs on virtual devices alone")
        checked = configuration_of(build, self._roots)
        watched = [*build.file.fingerprints, *(checked.watched if checked else ())]
        reader = Reader(job.check, lambda done: tell("read", done), build.pace)
        stock = Stock(self.components, self.ram, reader, usable=not build.anew)
        with Staging(self._runtime, self._device_id, watched) as staging:
            pipelines, parts = load(build, checked, staging, stock, job=job, tell=tell)
            staging.verify()
            contents = staging.contents()
        model = TorchModel(self, pipelines, parts, build)
        model.contents, model.source = contents, stock.source
        return model

    def read_part(self, name: str, own: Build, source: ModelFile, pipelines: Pipelines, job: Job) -> Made:
        """A part of another file for a model that was built so. Raises Fault."""
        from worker.reader import Reader  # noqa: PLC0415
        from worker.replacing import Sources  # noqa: PLC0415
        from worker.stock import Stock  # noqa: PLC0415

        sources = Sources(own, source, pipelines, self._roots)
        stock = Stock(self.components, self.ram, Reader(job.check, lambda _: None), usable=True)
        with Staging(self._runtime, self._device_id, sources.watched) as staging:
            return sources.read(name, staging, stock)

    def prefetch(self, build: Build, watch: Watch) -> int:
        from worker.configurations import configuration_of  # noqa: PLC0415
        from worker.larder import Larder  # noqa: PLC0415
        from worker.loader import read_parts  # noqa: PLC0415
        from worker.reader import Reader  # noqa: PLC0415

        checked = configuration_of(build, self._roots)
        watched = [*build.file.fingerprints, *(checked.watched if checked else ())]
        reader = Reader(watch.check, lambda _: None, build.pace)
        with Staging(self._runtime, self._device_id, watched) as staging:
            larder = Larder(self.components, self.ram, reader, watch, staging.verify)
            read_parts(build, checked, staging, larder)
        return larder.bytes

    def examine(self, build: Build, job: Job) -> int:
        from worker.configurations import configuration_of  # noqa: PLC0415
        from worker.examining import examine  # noqa: PLC0415

        checked = configuration_of(build, self._roots)
        watched = [*build.file.fingerprints, *(checked.watched if checked else ())]
        with Staging(self._runtime, self._device_id, watched) as staging:
            return examine(build, checked, staging, job.check)

    def computes(self) -> dict[ModelPrecision, str]:
        from worker import trials  # noqa: PLC0415
        from worker.parts import DTYPES  # noqa: PLC0415

        if not self._tried:
            found = trials.failures(self.torch_device, DTYPES.values())
            self._tried = {name: found[dtype] for name, dtype in DTYPES.items()}
        return self._tried

    def operations_per_second(self, precision: ModelPrecision) -> float | None:
        from worker import trials  # noqa: PLC0415
        from worker.parts import DTYPES  # noqa: PLC0415

        if precision not in self._rates:
            self._rates[precision] = trials.operations_per_second(
                self.torch_device, DTYPES[precision], self.synchronize
            )
        return self._rates[precision]

    def software(self) -> dict[str, str]:
        import diffusers  # noqa: PLC0415
        import torch  # noqa: PLC0415
        import transformers  # noqa: PLC0415

        return {
            "vrambroker": VERSION,
            "torch": str(torch.__version__),
            "diffusers": diffusers.__version__,
            "transformers": transformers.__version__,
        }

    def refuses(self, flag: str) -> str:
        return super().refuses(flag) or NOT_YET.get(flag, "")

    def reclaim(self) -> None:
        gc.collect()

    def tend(self) -> None:
        if self.kept is not None:
            self.kept.expire()

    def trim(self) -> None:
        if self.kept is not None:
            self.kept.clear()

    @property
    @abstractmethod
    def torch_device(self) -> torch.device:
        """Where runs compute."""

    @abstractmethod
    def open(self) -> None:
        """Make the device able to work, after the imports."""

    @abstractmethod
    def place(self, components: Sequence[Component]) -> None:
        """Every weight onto the device, or none. Raises `out_of_memory`."""

    @abstractmethod
    def displace(self, components: Sequence[Component], *, keep: bool) -> None:
        """Every weight off the device; into host memory where `keep` is true, else it is about to be given back."""

    @abstractmethod
    def bring(self, piece: Piece) -> None:
        """A piece of a streamed model onto the device, or nothing of it. Raises `out_of_memory`."""

    @abstractmethod
    def send_back(self, piece: Piece) -> None:
        """A piece off the device."""

    @abstractmethod
    def watch(
        self, pipelines: Pipelines, model_bytes: int, limit_bytes: int, known_peak: int | None, streamed_bytes: int = 0
    ) -> AbstractContextManager[RunMeter]:
        """Measure a run, and hold the model and its work to `limit_bytes` where that is not 0.

        `model_bytes` are there already, `streamed_bytes` come at the most.

        `known_peak` is the measured peak of an earlier run of the same shape.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all work given to the device is done."""
