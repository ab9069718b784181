"""ControlNets on real models: what they follow, in every way to draw, and which ones fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.drawing import Mode
from protocol.enums import ComponentRole, ComponentType, ModelPrecision
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization
from protocol.replies import GenerateReply, LoadComponentReply, LoadModelReply, UnloadComponentReply
from tests.worker.bench import Bench, worker_spec
from tests.worker.test_cpu import SD15, SDXL, draw
from worker.devices.base import Raster
from worker.pictures import plain_png

BRIGHT, DARK = (plain_png(Raster(width=64, height=64, rgb=bytes([value]) * 64 * 64 * 3)) for value in (250, 5))
NETS = {SD15: "edges", SDXL: "edges-xl"}


@pytest.fixture(scope="module")
def nets(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ControlNet for each of two families, of which something is heard."""
    root = tmp_path_factory.mktemp("nets")
    for model, name in NETS.items():
        unet = UNet2DConditionModel.from_pretrained(model_root / model / "unet")
        net = ControlNetModel.from_unet(unet)
        torch.manual_seed(3)
        for parameter in net.parameters():
            parameter.data = torch.randn_like(parameter.float()).to(parameter.dtype) * 0.05
        net.save_pretrained(root / name)
    return root


@pytest.fixture
def bench(model_root: Path, tmp_path: Path, nets: Path) -> Bench:
    torch.set_num_threads(1)
    spec = worker_spec(model_root, model_roots=[str(model_root), str(nets)], runtime=str(tmp_path / "runtime"))
    made = Bench(model_root, spec)
    made.nets = nets  # type: ignore[attr-defined]
    return made


def path_of(bench: Bench, model: str) -> str:
    return str(bench.nets / NETS[model])  # type: ignore[attr-defined]


def load(bench: Bench, model: str = SD15, **fields: Any) -> LoadComponentReply:
    chosen = {"component": ComponentRole.CONTROLNET, "path": path_of(bench, model), **fields}
    return bench.reply(LoadComponentReply, c.LoadComponent(model_id=model, **chosen), model)


def picture(bench: Bench, *files: tuple[str, bytes], model: str = SD15, **fields: Any) -> bytes:
    named = [c.Attachment(name=name, media_type="image/png", bytes=len(data)) for name, data in files]
    outcome = bench.run(draw(model, attachments=named, **fields), model, [data for _, data in files])
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


@pytest.mark.parametrize("model", [SD15, SDXL])
def test_a_picture_follows_its_control_and_without_one_is_the_first(bench: Bench, model: str) -> None:
    first, used = picture(bench, model=model), bench.engine.device.gauge().used
    reply = load(bench, model)
    assert reply.component.type is ComponentType.ControlNet and reply.replaced is None
    assert reply.memory_added == reply.component.memory_usage == bench.engine.device.gauge().used - used > 0
    assert picture(bench, model=model) == first
    bright = picture(bench, ("control", BRIGHT), model=model)
    assert len({first, bright, picture(bench, ("control", DARK), model=model)}) == 3
    assert picture(bench, ("control", BRIGHT), model=model) == bright
    command = c.UnloadComponent(model_id=model, component=ComponentRole.CONTROLNET)
    gone = bench.reply(UnloadComponentReply, command, model)
    assert gone.memory_added == -reply.memory_added and bench.engine.device.gauge().used == used
    assert picture(bench, model=model) == first


@pytest.mark.parametrize("mode", [Mode.IMAGE, Mode.INPAINT])
@pytest.mark.parametrize("model", [SD15, SDXL])
def test_in_every_way_to_draw(bench: Bench, model: str, mode: Mode) -> None:
    begun = [("start", DARK)] + ([("mask", BRIGHT)] if mode is Mode.INPAINT else [])
    first = picture(bench, *begun, model=model, strength=1.0)
    load(bench, model)
    assert picture(bench, *begun, model=model, strength=1.0) == first
    followed = picture(bench, *begun, ("control", BRIGHT), model=model, strength=1.0)
    assert len({first, followed, picture(bench, *begun, ("control", DARK), model=model, strength=1.0)}) == 3


def test_its_scale_counts(bench: Bench) -> None:
    picture(bench)
    load(bench, scale=1.0)
    whole = picture(bench, ("control", BRIGHT))
    assert load(bench, scale=0.5).replaced is not None
    half = picture(bench, ("control", BRIGHT))
    load(bench, scale=0.0)
    none = picture(bench, ("control", BRIGHT))
    assert len({whole, half, none}) == 3 and none == picture(bench, ("control", DARK))


def test_a_control_of_another_size_is_brought_to_the_pictures(bench: Bench) -> None:
    picture(bench)
    load(bench)
    large = plain_png(Raster(width=128, height=96, rgb=bytes([250]) * 128 * 96 * 3))
    assert picture(bench, ("control", large)) == picture(bench, ("control", BRIGHT))


@pytest.mark.parametrize("precision", [ModelPrecision.BFloat16, ModelPrecision.Int8])
def test_with_options(bench: Bench, precision: ModelPrecision) -> None:
    memory = ModelMemoryOptimization(enable_cpu_offloading=True)
    plain = ModelLoadConfiguration(precision=precision)
    offloaded = ModelLoadConfiguration(precision=precision, memory_optimization=memory)
    drawn = []
    for configuration in (plain, offloaded):
        bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
        load(bench)
        drawn.append(picture(bench, ("control", BRIGHT)))
    assert drawn[0] == drawn[1] and bench.engine.device.gauge().used == 0


def test_a_control_without_a_net_is_refused_with_what_would_help(bench: Bench) -> None:
    picture(bench)
    named = [c.Attachment(name="control", media_type="image/png", bytes=len(DARK))]
    outcome = bench.run(draw(SD15, attachments=named), SD15, [DARK])
    error = outcome.reply.error
    assert error is not None and error.code is ErrorCode.INVALID_ARGUMENT
    assert error.details["field"] == "attachments[0].name" and error.recovery[0].action == "load_component"


def test_a_control_that_is_no_picture_is_told_by_its_field(bench: Bench) -> None:
    picture(bench)
    load(bench)
    named = [c.Attachment(name="control", media_type="image/png", bytes=4)]
    error = bench.run(draw(SD15, attachments=named), SD15, [b"none"]).reply.error
    assert error is not None and error.code is ErrorCode.INVALID_ARGUMENT and "attachments[0]" in error.message


def test_a_net_of_another_width_is_refused_and_changes_nothing(bench: Bench) -> None:
    first, used = picture(bench), bench.engine.device.gauge().used
    command = c.LoadComponent(model_id=SD15, component=ComponentRole.CONTROLNET, path=path_of(bench, SDXL))
    error = bench.error(command, SD15)
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE and error.details["part"] == "controlnet"
    assert "this model's is" in error.message and picture(bench) == first
    assert bench.engine.device.gauge().used == used


def test_a_family_without_them_and_other_parts_are_refused(bench: Bench) -> None:
    picture(bench, model=DemoModel.FLUX)
    command = c.LoadComponent(model_id=DemoModel.FLUX, component=ComponentRole.CONTROLNET, path=path_of(bench, SD15))
    assert bench.error(command, DemoModel.FLUX).code is ErrorCode.NOT_SUPPORTED
    picture(bench)
    vae = str(bench.root / SD15 / "vae")
    command = c.LoadComponent(model_id=SD15, component=ComponentRole.CONTROLNET, path=vae)
    assert bench.error(command, SD15).code is ErrorCode.MODEL_INCOMPATIBLE
    gone = c.UnloadComponent(model_id=SD15, component=ComponentRole.CONTROLNET)
    assert bench.error(gone, SD15).code is ErrorCode.MODEL_INCOMPATIBLE
