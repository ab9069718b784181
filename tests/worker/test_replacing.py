"""Parts of other models in a model's place of its own: they act, they fit, and its own come back bit for bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.enums import ComponentRole, Lane, ModelPrecision
from protocol.errors import ErrorCode
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization
from protocol.replies import (
    GenerateReply,
    ListComponentsReply,
    LoadComponentReply,
    LoadModelReply,
    UnloadComponentReply,
    UnloadModelReply,
)
from tests.worker.bench import Bench, model_ref, worker_spec
from tests.worker.test_cpu import SD15, SDXL, draw

OTHER = "other"
SINGLE = "tiny-sd15-single.safetensors"
ROLES = [ComponentRole.VAE, ComponentRole.UNET, ComponentRole.TEXT_ENCODER]


@pytest.fixture
def bench(model_root: Path, tmp_path: Path) -> Bench:
    """A device over the demonstration models and `other`, SD 1.5 with other weights."""
    torch.set_num_threads(1)
    root = tmp_path / "models"
    shutil.copytree(model_root / SD15, root / OTHER)
    for path in (root / OTHER).rglob("*.safetensors"):
        tensors = {
            name: tensor * 1.25 if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
        }
        save_file(tensors, path, {"format": "pt"})
    spec = worker_spec(model_root, model_roots=[str(model_root), str(root)], runtime=str(tmp_path / "runtime"))
    made = Bench(model_root, spec)
    made.other = root / OTHER  # type: ignore[attr-defined]
    return made


def other(bench: Bench) -> Path:
    found: Path = bench.other  # type: ignore[attr-defined]
    return found


def load(bench: Bench, role: ComponentRole, model: str = SD15, **fields: Any) -> LoadComponentReply:
    extra = {"source": model_ref(other(bench).parent, OTHER)} if fields.get("source_model_id") == OTHER else {}
    return bench.reply(LoadComponentReply, c.LoadComponent(model_id=model, component=role, **fields), model, **extra)


def error(bench: Bench, role: ComponentRole, model: str = SD15, **fields: Any) -> Any:
    before = bench.engine.device.gauge().used
    found = bench.error(c.LoadComponent(model_id=model, component=role, **fields), model)
    assert bench.engine.device.gauge().used == before
    return found


def restore(bench: Bench, role: ComponentRole, model: str = SD15) -> UnloadComponentReply:
    return bench.reply(UnloadComponentReply, c.UnloadComponent(model_id=model, component=role), model)


def picture(bench: Bench, model: str = SD15) -> bytes:
    outcome = bench.run(draw(model), model)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


@pytest.mark.parametrize("role", ROLES, ids=[role.value for role in ROLES])
@pytest.mark.parametrize("by_id", [True, False])
def test_a_part_acts_and_its_own_comes_back(bench: Bench, role: ComponentRole, by_id: bool) -> None:
    first, used = picture(bench), bench.engine.device.gauge().used
    source = {"source_model_id": OTHER} if by_id else {"path": str(other(bench) / role.value)}
    reply = load(bench, role, **source)
    assert reply.component.name == role.value and reply.component.file_path == str(other(bench) / role.value)
    assert reply.replaced is not None and reply.replaced.file_path == str(bench.root / SD15 / role.value)
    assert reply.memory_added == 0 and bench.engine.device.gauge().used == used
    changed = picture(bench)
    assert changed != first
    back = restore(bench, role)
    assert back.component.file_path == str(bench.root / SD15 / role.value) and back.replaced is not None
    assert picture(bench) == first and bench.engine.device.gauge().used == used
    load(bench, role, **source)
    assert picture(bench) == changed


def test_all_parts_of_another_model_make_its_picture(bench: Bench) -> None:
    picture(bench)
    for role in ROLES:
        load(bench, role, source_model_id=OTHER)
    changed = picture(bench)
    alone = Bench(other(bench).parent, worker_spec(other(bench).parent))
    assert picture(alone, OTHER) == changed


def test_its_own_restored_before_anything_changed_is_no_change(bench: Bench) -> None:
    first, used = picture(bench), bench.engine.device.gauge().used
    reply = restore(bench, ComponentRole.VAE)
    assert reply.memory_added == 0 and bench.engine.device.gauge().used == used
    assert picture(bench) == first
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert bench.engine.device.gauge().used == 0 and len(bench.engine.device.components) == 0  # type: ignore[attr-defined]


def test_a_part_by_itself_in_one_file(bench: Bench) -> None:
    first = picture(bench)
    tensors = load_file(next((other(bench) / "vae").glob("*.safetensors")))
    file = other(bench).parent / "bright.safetensors"
    save_file(tensors, file)
    load(bench, ComponentRole.VAE, source_model_id=OTHER)
    changed = picture(bench)
    restore(bench, ComponentRole.VAE)
    reply = load(bench, ComponentRole.VAE, path=str(file))
    assert reply.component.file_path == str(file) and picture(bench) == changed != first


def test_a_part_of_a_single_file_checkpoint(bench: Bench) -> None:
    first = picture(bench)
    load(bench, ComponentRole.UNET, source_model_id=OTHER)
    assert picture(bench) != first
    load(bench, ComponentRole.UNET, path=str(bench.root / SINGLE))
    assert picture(bench) == first


def test_a_model_in_one_file_takes_and_restores_parts(bench: Bench) -> None:
    first = picture(bench, SINGLE)
    load(bench, ComponentRole.VAE, SINGLE, source_model_id=OTHER)
    assert picture(bench, SINGLE) != first
    restore(bench, ComponentRole.VAE, SINGLE)
    assert picture(bench, SINGLE) == first


def test_a_scheduler_and_a_tokenizer_are_parts_too(bench: Bench) -> None:
    first = picture(bench)
    config = other(bench) / "scheduler" / "scheduler_config.json"
    written = json.loads(config.read_text()) | {"beta_end": 0.02}
    config.write_text(json.dumps(written))
    load(bench, ComponentRole.SCHEDULER, path=str(other(bench) / "scheduler"))
    assert picture(bench) != first
    restore(bench, ComponentRole.SCHEDULER)
    assert picture(bench) == first
    load(bench, ComponentRole.TOKENIZER, source_model_id=OTHER)
    assert picture(bench) == first


def test_another_model_that_shares_the_part_keeps_it(bench: Bench) -> None:
    first = picture(bench)
    assert picture(bench, SINGLE) == first
    load(bench, ComponentRole.VAE, source_model_id=OTHER)
    assert picture(bench, SINGLE) == first != picture(bench)
    command = c.ListComponents(model_id=SD15)
    listed = bench.reply(ListComponentsReply, command, SD15, lane=Lane.CONTROL).components
    shared = {part.name: part.shared_with for part in listed}
    assert shared["vae"] == [] and shared["unet"] == [SINGLE]


def test_it_goes_with_its_model_to_the_ram_tier_and_back(bench: Bench) -> None:
    picture(bench)
    load(bench, ComponentRole.UNET, source_model_id=OTHER)
    changed, used = picture(bench), bench.engine.device.gauge().used
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert bench.engine.device.gauge().used == 0
    assert picture(bench) == changed and bench.engine.device.gauge().used == used


@pytest.mark.parametrize("precision", [ModelPrecision.BFloat16, ModelPrecision.Int8])
def test_a_part_comes_in_its_models_precision(bench: Bench, precision: ModelPrecision) -> None:
    configuration = ModelLoadConfiguration(precision=precision)
    bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
    first, used = picture(bench), bench.engine.device.gauge().used
    load(bench, ComponentRole.UNET, source_model_id=OTHER)
    assert bench.engine.device.gauge().used == used and picture(bench) != first
    restore(bench, ComponentRole.UNET)
    assert picture(bench) == first


def test_a_streamed_model_takes_parts(bench: Bench) -> None:
    first = picture(bench)
    memory = ModelMemoryOptimization(enable_model_splitting=True)
    configuration = ModelLoadConfiguration(memory_optimization=memory)
    bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, configuration=configuration), SD15)
    load(bench, ComponentRole.UNET, source_model_id=OTHER)
    assert picture(bench) != first and bench.engine.device.gauge().used == 0
    restore(bench, ComponentRole.UNET)
    assert picture(bench) == first
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert len(bench.engine.device.components) == 0  # type: ignore[attr-defined]


def test_a_model_that_is_built_anew_has_its_own_parts_and_says_so(bench: Bench) -> None:
    first = picture(bench)
    load(bench, ComponentRole.VAE, source_model_id=OTHER)
    reply = bench.reply(LoadModelReply, c.LoadModel(model_id=SD15, force=True), SD15)
    assert any("vae" in warning for warning in reply.warnings) and picture(bench) == first


@pytest.mark.parametrize(
    ("role", "model"),
    [
        (ComponentRole.UNET, SDXL),
        (ComponentRole.TEXT_ENCODER_2, SDXL),
        (ComponentRole.VAE, DemoModel.FLUX),
        (ComponentRole.TRANSFORMER, DemoModel.FLUX),
        (ComponentRole.SCHEDULER, DemoModel.FLUX),
    ],
    ids=str,
)
def test_a_part_of_another_family_is_refused_and_changes_nothing(bench: Bench, role: ComponentRole, model: str) -> None:
    first = picture(bench)
    found = error(bench, role, path=str(bench.root / model / role.value))
    assert found.code is ErrorCode.MODEL_INCOMPATIBLE and role.value in found.message, found.message
    assert picture(bench) == first


def test_a_part_that_is_not_whole_is_refused_and_changes_nothing(bench: Bench) -> None:
    first = picture(bench)
    file = next((other(bench) / "vae").glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])
    found = error(bench, ComponentRole.VAE, path=str(other(bench) / "vae"))
    assert found.code is ErrorCode.MODEL_CORRUPTED and picture(bench) == first


def test_a_part_that_the_source_lacks_is_told(bench: Bench) -> None:
    picture(bench, SDXL)
    found = error(bench, ComponentRole.TEXT_ENCODER_2, SDXL, path=str(bench.root / SD15))
    assert found.code is ErrorCode.MODEL_INCOMPATIBLE and "has no text_encoder_2" in found.message


def test_a_full_device_refuses_and_keeps_the_model(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = picture(bench)
    device: Any = bench.engine.device
    monkeypatch.setattr(device.ledger, "total_bytes", device.ledger.used_bytes + 100)
    command = c.LoadComponent(model_id=SD15, component=ComponentRole.VAE, source_model_id=OTHER)
    found = bench.error(command, SD15, source=model_ref(other(bench).parent, OTHER))
    assert found.code is ErrorCode.INSUFFICIENT_MEMORY and picture(bench) == first
