"""The cuda device: runs where there is one, and says loudly where there is none."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from broker.devices import gpus, visible
from protocol import commands as c
from protocol.enums import LoadSource, ModelPrecision, Tier
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, LoadModelReply, UnloadModelReply
from tests.worker.bench import Bench, worker_spec

pytestmark = pytest.mark.gpu
SD15, SDXL = "tiny-sd15", "tiny-sdxl"
ROOT = Path(__file__).parents[2]


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


POISON = """
import torch
from worker.devices.cuda import poisoned_by
table = torch.zeros(4, device="cuda")
try:
    table[torch.tensor([1 << 20], device="cuda")].sum().item()
except Exception as error:
    print(poisoned_by(error))
    try:
        raise ValueError("a library's own") from error
    except ValueError as wrapped:
        print(poisoned_by(wrapped))
try:
    torch.zeros(1, device="cuda")
except Exception as error:
    print(poisoned_by(error))
"""


def test_an_index_past_a_table_poisons_the_process_and_is_known_by_its_error() -> None:
    first_uuid()
    command = [sys.executable, "-P", "-c", POISON]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)
    reasons = done.stdout.splitlines()
    assert len(reasons) == 3 and all(reasons), done


def test_running_out_of_memory_is_no_poison_and_the_next_picture_is_drawn(cuda: Bench) -> None:
    torch = pytest.importorskip("torch")
    first = cuda.run(draw(), SD15)
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - (256 << 20), dtype=torch.uint8, device="cuda")
    large = cuda.run(draw(width=2048, height=2048, num_images=16), SD15)
    assert large.reply.error is not None and large.reply.error.code is ErrorCode.INSUFFICIENT_MEMORY
    assert not cuda.engine.fatal
    del hog
    torch.cuda.empty_cache()
    assert cuda.run(draw(), SD15).attachments == first.attachments


def test_devices_are_numbered_as_the_mask_leaves_them() -> None:
    uuid = first_uuid()
    every = gpus()
    assert every[0].uuid == uuid
    assert visible(None, every)[0] == every[0].devices[0]
    assert visible("0", every) == every[0].devices[:1]
    assert visible(every[0].devices[0][:14], every) == every[0].devices[:1]
    assert visible("-1", every) == [] and visible("", every) == []


def test_a_configuration_for_more_than_the_weights_is_refused_before_the_device_sees_it(
    model_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(model_root / SD15, tmp_path / "models" / SD15)
    config = tmp_path / "models" / SD15 / "text_encoder" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "hidden_size": 64}))
    spec = worker_spec(tmp_path / "models", "cuda:0", cuda_uuid=first_uuid(), reserve_bytes=256 << 20, budget_bytes=0)
    bench = Bench(tmp_path / "models", spec)
    before = bench.engine.device.gauge().allocated or 0
    error = bench.error(c.LoadModel(model_id=SD15), SD15)
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert (bench.engine.device.gauge().allocated or 0) == before
