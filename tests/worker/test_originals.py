"""A single file without one of its tensors is told by that tensor's own name, whatever part it belongs to."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from demo.inventory import SINGLE_FILE_SOURCE
from modelfiles import families
from modelfiles.headers import Tensor, read_header
from modelfiles.model import inspect
from modelfiles.paths import Roots
from modelfiles.recognition import Recognised, file_parts
from protocol import commands as c
from protocol.errors import ErrorCode
from tests.worker.bench import Bench, worker_spec
from worker import originals
from worker.parts import class_of
from worker.skeleton import Held, check_module

SINGLES = [model.removesuffix(".safetensors") for model in SINGLE_FILE_SOURCE]
COMPUTED = ("position_ids", "logit_scale", ".text_projection")
"""Endings of what a file may lack: it is made, or used by nobody."""


class Parts:
    """The parts of a single file with their modules, for asking what a file without this or that would lack."""

    def __init__(self, root: Path, name: str) -> None:
        path = root / f"{name}.safetensors"
        file = inspect(path, Roots([root]))
        index = json.loads((root / name / "model_index.json").read_text())
        parts = file_parts(Recognised(file.type, file.family), read_header(path).tensors)
        family = families.named(file.family)
        assert family is not None
        self.family = family
        self.of: dict[str, tuple[str, torch.nn.Module, tuple[str, ...], list[Tensor]]] = {}
        for part, tensors in parts.items():
            library, class_name = index[part.name]
            config = json.loads((root / name / part.name / "config.json").read_text())
            listed = next(known for known in file.parts if known.name == part.name)
            cls = class_of(type(listed)(**{**_fields(listed), "library": library, "class_name": class_name}))
            module = check_module(part.name, cls, config, Held.of(tensors, exact=False))
            self.of[part.name] = class_name, module, part.prefixes, tensors


def _fields(part: object) -> dict[str, object]:
    return {name: getattr(part, name) for name in part.__struct_fields__}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", SINGLES)
def test_whole_files_lack_nothing(model_root: Path, name: str) -> None:
    parts = Parts(model_root, name)
    for class_name, module, starts, tensors in parts.of.values():
        assert originals.lacking(parts.family, class_name, module, starts, tensors) == []


@pytest.mark.parametrize("name", SINGLES)
def test_each_tensor_that_is_taken_away_is_named_as_the_file_would_have_it(model_root: Path, name: str) -> None:
    chance = random.Random(name)
    parts = Parts(model_root, name)
    for class_name, module, starts, tensors in parts.of.values():
        read = [tensor for tensor in tensors if not tensor.name.endswith(COMPUTED)]
        named = 0
        for gone in chance.sample(read, min(24, len(read))):
            left = [tensor for tensor in tensors if tensor is not gone]
            absent = originals.lacking(parts.family, class_name, module, starts, left)
            assert absent, gone.name
            named += any(gone.name.endswith(one) for one in absent)
        assert named >= 0.75 * min(24, len(read)), class_name


def test_another_layout_is_no_lack(model_root: Path) -> None:
    parts = Parts(model_root, "tiny-sd15-single")
    class_name, module, starts, tensors = parts.of["unet"]
    assert originals.lacking(parts.family, class_name, module, starts, tensors[: len(tensors) // 3]) == []
    assert originals.lacking(parts.family, "SomethingElse", module, starts, tensors) == []


@pytest.mark.parametrize(
    ("name", "gone", "part"),
    [
        ("tiny-sd15-single", "model.diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", "unet"),
        ("tiny-sd15-single", "first_stage_model.decoder.mid.block_1.conv1.weight", "vae"),
        ("tiny-sd15-single", "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight", "text_encoder"),
        ("tiny-sdxl-single", "conditioner.embedders.1.model.ln_final.weight", "text_encoder_2"),
        (
            "tiny-sdxl-single",
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
            "text_encoder_2",
        ),
    ],
)
def test_a_load_says_which_tensor_of_which_part_is_missing(
    model_root: Path, tmp_path: Path, name: str, gone: str, part: str
) -> None:
    root = tmp_path / "models"
    root.mkdir()
    tensors = load_file(model_root / f"{name}.safetensors")
    del tensors[gone]
    save_file(tensors, root / "m.safetensors", metadata={"format": "pt"})
    shutil.copytree(model_root / name, root / "m")
    error = Bench(root, worker_spec(root)).error(c.LoadModel(model_id="m.safetensors"), "m.safetensors")
    assert (error.code, error.details["part"]) == (ErrorCode.MODEL_CORRUPTED, part)
    assert f"its {part}" in error.message and "tensor" in error.message


def test_a_tensor_that_no_conversion_can_take_is_the_files_fault(model_root: Path, tmp_path: Path) -> None:
    name = "tiny-sdxl-single"
    tensors = load_file(model_root / f"{name}.safetensors")
    key = "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight"
    tensors[key] = tensors[key].flatten()
    save_file(tensors, tmp_path / f"{name}.safetensors")
    shutil.copytree(model_root / name, tmp_path / name)
    bench = Bench(tmp_path, worker_spec(tmp_path))
    error = bench.error(c.LoadModel(model_id=f"{name}.safetensors"), f"{name}.safetensors")
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE and "text_encoder_2" in error.message
