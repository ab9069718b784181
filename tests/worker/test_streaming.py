"""Models whose weights wait in host memory: the same pictures, little of the device, nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.enums import Lane, LoadSource, ModelPrecision, Tier
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization
from protocol.replies import GenerateReply, ListComponentsReply, LoadModelReply, UnloadModelReply
from tests.worker.bench import Bench, worker_spec
from tests.worker.test_cpu import SD15, SDXL, drawn
from worker.devices.cpu import CpuDevice
from worker.running import TorchModel
from worker.streaming import SLOTS, Flow, Piece, Streamed

SINGLE = "tiny-sd15-single.safetensors"
OFFLOADED = ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(enable_cpu_offloading=True))
SPLIT = ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(enable_model_splitting=True))
BOTH = ModelLoadConfiguration(
    memory_optimization=ModelMemoryOptimization(enable_cpu_offloading=True, enable_model_splitting=True)
)
EACH = {"enable_cpu_offloading": OFFLOADED, "enable_model_splitting": SPLIT}


def load(bench: Bench, name: str, configuration: ModelLoadConfiguration | None) -> LoadModelReply:
    return bench.reply(LoadModelReply, c.LoadModel(model_id=name, configuration=configuration), name)


def used(bench: Bench) -> int:
    return bench.engine.device.gauge().used


def ledger_peak(bench: Bench) -> int:
    device = bench.engine.device
    assert isinstance(device, CpuDevice)
    device.ledger.peak_bytes = device.ledger.used_bytes
    return 0


def built(bench: Bench, name: str) -> TorchModel:
    resident = bench.engine.cache.get(name)
    assert resident is not None and isinstance(resident.built, TorchModel)
    return resident.built


class Stage:
    """A device that notes what it has."""

    def __init__(self) -> None:
        self.there: list[Piece] = []
        self.most_bytes = 0
        self.fails_at: int | None = None

    def bring(self, piece: Piece) -> None:
        if self.fails_at is not None and len(self.there) >= self.fails_at:
            raise torch.OutOfMemoryError("full")
        assert piece not in self.there
        self.there.append(piece)
        self.most_bytes = max(self.most_bytes, sum(one.bytes for one in self.there))

    def send_back(self, piece: Piece) -> None:
        self.there.remove(piece)


class Tower(torch.nn.Module):
    """A stem and six blocks, one of them of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(4, 4)
        self.blocks = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(5))
        self.blocks.append(Inner())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return x


class Inner(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Linear(4, 4) for _ in range(7))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_part_is_a_stem_and_blocks_the_large_ones_by_their_own() -> None:
    part = Streamed(Tower(), split=True)
    assert len(part.blocks) == 5 + 7 and part.stem.bytes == 80
    assert part.bytes == 13 * 80 and part.most_bytes == (1 + SLOTS) * 80
    whole = Streamed(Tower(), split=False)
    assert not whole.blocks and whole.bytes == whole.most_bytes == 13 * 80


def test_blocks_come_in_turn_and_nothing_stays() -> None:
    tower, x = Tower(), torch.randn(2, 4)
    expected, stage = tower(x), Stage()
    part = Streamed(tower, split=True)
    with Flow(stage, [part]) as flow:
        for _ in range(3):
            assert torch.equal(tower(x), expected)
        assert len(stage.there) == 1 + SLOTS
    assert stage.there == [] and stage.most_bytes == part.most_bytes and flow.moves == 1 + 3 * 12
    assert "forward" not in vars(tower) and not any("forward" in vars(block) for block, _ in part.blocks)


def test_a_part_makes_place_for_the_next() -> None:
    one, other, x, stage = Tower(), Tower(), torch.randn(2, 4), Stage()
    parts = [Streamed(module, split=False) for module in (one, other)]
    with Flow(stage, parts):
        for module, part in ((one, parts[0]), (other, parts[1]), (one, parts[0])):
            module(x)
            assert stage.there == [part.stem]


@pytest.mark.parametrize("fails_at", [0, 1, 2])
def test_a_device_that_is_full_leaves_nothing_there(fails_at: int) -> None:
    tower, stage = Tower(), Stage()
    stage.fails_at = fails_at
    with pytest.raises(torch.OutOfMemoryError), Flow(stage, [Streamed(tower, split=True)]):
        tower(torch.randn(2, 4))
    assert stage.there == [] and "forward" not in vars(tower)


def test_a_piece_points_where_it_pointed_once_it_is_back() -> None:
    tensor = torch.nn.Parameter(torch.randn(3))
    before, piece = tensor.data, Piece([tensor, tensor])
    piece.move(torch.device("cpu"))
    tensor.data = tensor.data.clone()
    assert tensor.data_ptr() != before.data_ptr() and piece.bytes == 12
    piece.come_back()
    assert tensor.data_ptr() == before.data_ptr()


@pytest.mark.parametrize("name", [DemoModel.SD15, DemoModel.SDXL, DemoModel.FLUX, DemoModel.Z_IMAGE])
@pytest.mark.parametrize("flag", list(EACH))
def test_every_family_draws_the_same_with_little_on_the_device(cpu: Bench, name: str, flag: str) -> None:
    whole = load(cpu, name, ModelLoadConfiguration())
    first = drawn(cpu, name)
    reply = load(cpu, name, EACH[flag])
    option = next(one for one in reply.options if one.option == flag)
    assert option.applied and option.evidence is not None
    assert option.evidence["bytes_before"] == whole.memory_usage
    assert reply.memory_usage == option.evidence["bytes_at_rest"] == used(cpu) == 0
    ledger_peak(cpu)
    again = drawn(cpu, name)
    assert again.attachments == first.attachments and first.attachments
    peak = cpu.engine.device.gauge().peak
    assert used(cpu) == 0 and 0 < (peak or 0) <= option.evidence["bytes_running"] < whole.memory_usage
    assert again.facts is not None and first.facts is not None
    assert (again.facts.peak_bytes or 0) < (first.facts.peak_bytes or 0)
    assert (option.evidence["blocks"] > 4) is (flag == "enable_model_splitting")


@pytest.mark.parametrize("name", [SD15, SDXL])
def test_a_split_denoiser_needs_little_of_the_device(cpu: Bench, name: str) -> None:
    load(cpu, name, SPLIT)
    part = Streamed(built(cpu, name)._pipelines.denoiser, split=True)
    assert part.most_bytes < 0.66 * part.bytes


def test_offloading_goes_before_splitting(cpu: Bench) -> None:
    reply = load(cpu, SD15, BOTH)
    assert "enable_cpu_offloading" in reply.optimizations_applied
    refused = next(one for one in reply.options if one.option == "enable_model_splitting")
    assert not refused.applied and "enable_cpu_offloading" in (refused.reason or "")


@pytest.mark.parametrize("flag", list(EACH))
def test_a_model_larger_than_the_device_draws(model_root: Any, tmp_path: Any, flag: str) -> None:
    torch.set_num_threads(1)
    roomy = Bench(model_root, worker_spec(model_root, outputs=str(tmp_path)))
    first = drawn(roomy, SDXL).attachments
    total = load(roomy, SDXL, ModelLoadConfiguration()).memory_usage
    tight = Bench(model_root, worker_spec(model_root, outputs=str(tmp_path), budget_bytes=int(total * 0.8)))
    refused = tight.error(c.LoadModel(model_id=SDXL, configuration=ModelLoadConfiguration()), SDXL)
    assert refused.code is ErrorCode.INSUFFICIENT_MEMORY and not refused.retryable
    load(tight, SDXL, EACH[flag])
    assert drawn(tight, SDXL).attachments == first
    assert (tight.engine.device.gauge().peak or 0) <= total * 0.8


def test_one_whose_pieces_are_larger_than_the_device_is_refused_with_the_numbers(
    model_root: Any, tmp_path: Any
) -> None:
    tight = Bench(model_root, worker_spec(model_root, outputs=str(tmp_path), budget_bytes=200_000))
    error = tight.error(c.LoadModel(model_id=SD15, configuration=SPLIT), SD15)
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and error.details["total_bytes"] == 200_000
    assert tight.engine.cache.get(SD15) is None and used(tight) == 0


def test_it_is_undone_by_a_load_without_it_and_by_leaving(cpu: Bench) -> None:
    first = drawn(cpu, SD15).attachments
    whole = used(cpu)
    load(cpu, SD15, OFFLOADED)
    reply = load(cpu, SD15, ModelLoadConfiguration())
    assert reply.memory_usage == used(cpu) == whole and reply.cache.source is not LoadSource.DISK
    assert drawn(cpu, SD15).attachments == first
    load(cpu, SD15, OFFLOADED)
    assert cpu.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15).memory_freed == 0
    resident = cpu.engine.cache.get(SD15)
    assert resident is not None and resident.tier is Tier.RAM
    assert drawn(cpu, SD15).attachments == first and used(cpu) == 0
    cpu.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert len(cpu.engine.device.components) == 0  # type: ignore[attr-defined]


def test_a_part_that_the_device_has_by_another_model_is_used_as_it_is(cpu: Bench) -> None:
    first = drawn(cpu, SD15).attachments
    whole = used(cpu)
    load(cpu, SINGLE, OFFLOADED)
    assert used(cpu) == whole
    ledger_peak(cpu)
    assert drawn(cpu, SINGLE).attachments == first
    assert used(cpu) == whole
    listed = cpu.reply(ListComponentsReply, c.ListComponents(model_id=SD15), SD15, lane=Lane.CONTROL)
    assert all(one.shared_with == [] for one in listed.components)
    cpu.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert used(cpu) == 0 and drawn(cpu, SINGLE).attachments == first


def test_a_model_that_waits_in_host_memory_is_nobodys_victim(model_root: Any, tmp_path: Any) -> None:
    torch.set_num_threads(1)
    roomy = Bench(model_root, worker_spec(model_root, outputs=str(tmp_path)))
    total = load(roomy, SDXL, ModelLoadConfiguration()).memory_usage
    bench = Bench(model_root, worker_spec(model_root, outputs=str(tmp_path), budget_bytes=int(total * 1.1)))
    load(bench, SD15, OFFLOADED)
    load(bench, SDXL, ModelLoadConfiguration())
    resident = bench.engine.cache.get(SD15)
    assert resident is not None and resident.tier is Tier.VRAM and resident.device_bytes == 0
    assert bench.engine.sampler.pressure().reclaimable_bytes == total


def test_a_run_that_fails_leaves_nothing_on_the_device(cpu: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    load(cpu, SD15, SPLIT)
    first = drawn(cpu, SD15).attachments
    vae = built(cpu, SD15)._pipelines.components["vae"]
    with monkeypatch.context() as patch:
        patch.setattr(type(vae), "decode", lambda *_, **__: 1 / 0)
        assert cpu.run(c.Generate(model_id=SD15, prompt="x", steps=2, width=64, height=64), SD15).reply.error
    assert used(cpu) == 0
    assert drawn(cpu, SD15).attachments == first


def test_with_fewer_bits_as_well(cpu: Bench) -> None:
    narrow = ModelLoadConfiguration(precision=ModelPrecision.Int8)
    load(cpu, SD15, narrow)
    first = drawn(cpu, SD15).attachments
    load(
        cpu, SD15, ModelLoadConfiguration(precision=ModelPrecision.Int8, memory_optimization=SPLIT.memory_optimization)
    )
    outcome = drawn(cpu, SD15)
    assert isinstance(outcome.reply, GenerateReply) and outcome.attachments == first and used(cpu) == 0


def test_a_share_of_the_device_bounds_what_a_run_has_there(cpu: Bench) -> None:
    fraction = ModelMemoryOptimization(enable_cpu_offloading=True, memory_fraction=0.001)
    error = cpu.error(
        c.LoadModel(model_id=SD15, configuration=ModelLoadConfiguration(memory_optimization=fraction)), SD15
    )
    assert error.code is ErrorCode.INSUFFICIENT_MEMORY and "memory_fraction" in error.message
