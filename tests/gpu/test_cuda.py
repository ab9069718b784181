"""The cuda device: runs where there is one, and says loudly where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from protocol import commands as c
from protocol.enums import LoadSource, ModelPrecision, Tier
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, LoadModelReply, UnloadModelReply
from tests.worker.bench import Bench, worker_spec

pytestmark = pytest.mark.gpu
SD15, SDXL = "tiny-sd15", "tiny-sdxl"


def first_uuid() -> str:
    """The first GPU's UUID as NVML tells it; skips the test where there is none."""
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except pynvml.NVMLError as error:
        pytest.skip(f"NO CUDA DEVICE: NVML says {error}; the cuda device is not tested here")


@pytest.fixture
def cuda(model_root: Path, tmp_path: Path) -> Bench:
    uuid = first_uuid()
    spec = worker_spec(
        model_root, "cuda:0", cuda_uuid=uuid, outputs=str(tmp_path), reserve_bytes=256 << 20, budget_bytes=0
    )
    return Bench(model_root, spec)


def draw(**fields: object) -> c.Generate:
    chosen = {"prompt": "a boat", "steps": 2, "seed": 7, "width": 64, "height": 64, **fields}
    return c.Generate(model_id=SD15, **chosen)  # type: ignore[arg-type]


def test_nvml_is_read_before_any_context(cuda: Bench) -> None:
    identity = cuda.engine.device.identity()
    assert identity.total_vram > 0 and identity.name


def test_weights_arrive_and_leave_measured(cuda: Bench) -> None:
    loaded = cuda.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15)
    assert loaded.memory_added > 0
    allocated = cuda.engine.device.gauge().allocated or 0
    assert allocated >= loaded.memory_usage
    unloaded = cuda.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert unloaded.memory_freed > 0
    assert cuda.engine.cache.listing()[0].tier is Tier.RAM
    again = cuda.reply(LoadModelReply, c.LoadModel(model_id=SD15), SD15)
    assert again.cache.source is LoadSource.RAM
    cuda.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert (cuda.engine.device.gauge().allocated or 0) < loaded.memory_usage


def test_equal_seeds_draw_equal_bytes_before_and_after_a_stay_in_ram(cuda: Bench) -> None:
    first = cuda.run(draw(), SD15)
    assert isinstance(first.reply, GenerateReply), first.reply.error
    assert first.facts is not None and first.facts.peak_bytes
    cuda.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert cuda.run(draw(), SD15).attachments == first.attachments


@pytest.mark.parametrize("precision", [ModelPrecision.Float16, ModelPrecision.BFloat16, ModelPrecision.Float32])
def test_every_precision_draws(cuda: Bench, precision: ModelPrecision) -> None:
    configuration = ModelLoadConfiguration(precision=precision)
    for name in (SD15, SDXL):
        cuda.reply(LoadModelReply, c.LoadModel(model_id=name, configuration=configuration), name)
        command = c.Generate(model_id=name, prompt="a", steps=2, seed=1, width=64, height=64)
        assert cuda.run(command, name).attachments


def test_sensors_are_read_or_named_missing(cuda: Bench) -> None:
    sample = cuda.engine.sampler.sample()
    for name in ("utilization", "temperature_c", "power_w", "energy_j"):
        assert getattr(sample, name) is not None or sample.missing[name]
