"""A single file of scaled fp8 draws what its weights mean: what the same numbers, written plainly, draw."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from protocol import commands as c
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply
from tests.worker.bench import Bench, Outcome, worker_spec

NAME = "tiny-sd15-single"
LARGEST = 448.0
"""The greatest number of F8_E4M3."""


def scaled(models: Path, root: Path, key: str, *, rows: bool = False, marked: bool = False) -> None:
    """`fp8.safetensors` with its matrices scaled, and `plain.safetensors` with the numbers that those stand for."""
    tensors = load_file(models / f"{NAME}.safetensors")
    packed, meant = dict(tensors), dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".weight") and tensor.ndim == 2 and name.startswith("model.diffusion_model."):
            largest = tensor.abs().amax(dim=1, keepdim=True) if rows else tensor.abs().amax()
            scale = largest.clamp(min=1e-6) / LARGEST
            packed[name] = (tensor / scale).to(torch.float8_e4m3fn)
            packed[name.removesuffix("weight") + key] = scale.flatten() if rows else scale
            meant[name] = packed[name].float() * scale
    if marked:
        packed["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    for stem, content in (("fp8", packed), ("plain", meant)):
        save_file(content, root / f"{stem}.safetensors")
        shutil.copytree(models / NAME, root / stem)


def drawn(bench: Bench, stem: str) -> Outcome:
    name = f"{stem}.safetensors"
    return bench.run(c.Generate(model_id=name, prompt="x", seed=1, steps=2, width=64, height=64), name)


@pytest.mark.parametrize("key", ["scale_weight", "weight_scale"])
@pytest.mark.parametrize("rows", [False, True])
def test_scaled_fp8_draws_what_the_same_numbers_draw_when_written_plainly(
    model_root: Path, tmp_path: Path, key: str, rows: bool
) -> None:
    torch.set_num_threads(1)
    scaled(model_root, tmp_path, key, rows=rows, marked=rows)
    bench = Bench(tmp_path, worker_spec(tmp_path))
    one, other = drawn(bench, "fp8"), drawn(bench, "plain")
    assert isinstance(one.reply, GenerateReply), one.reply.error
    assert one.attachments == other.attachments


def test_a_scale_of_blocks_is_refused_by_its_name(model_root: Path, tmp_path: Path) -> None:
    scaled(model_root, tmp_path, "weight_scale", rows=True)
    tensors = load_file(tmp_path / "fp8.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith(".weight_scale"))
    tensors[name] = torch.cat([tensors[name]] * 2)
    save_file(tensors, tmp_path / "fp8.safetensors")
    error = drawn(Bench(tmp_path, worker_spec(tmp_path)), "fp8").reply.error
    assert error is not None and error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert (error.details["part"], error.details["tensor"]) == ("unet", name)


def test_a_format_of_its_own_is_refused_by_its_name(model_root: Path, tmp_path: Path) -> None:
    scaled(model_root, tmp_path, "weight_scale")
    tensors = load_file(tmp_path / "fp8.safetensors")
    tensors["model.diffusion_model.out.2.comfy_quant"] = torch.zeros(8, dtype=torch.uint8)
    save_file(tensors, tmp_path / "fp8.safetensors")
    error = drawn(Bench(tmp_path, worker_spec(tmp_path)), "fp8").reply.error
    assert error is not None and error.code is ErrorCode.NOT_SUPPORTED
    assert "comfy_quant" in error.message
