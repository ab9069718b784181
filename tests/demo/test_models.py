"""The tiny models load with diffusers and paint; the single files paint what the folders do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file

from demo.inventory import FOLDERS, FROM_PICTURES, WITHIN_MASKS, DemoModel, is_complete
from demo.models import make_models

pytestmark = pytest.mark.filterwarnings("ignore:.*upcast_vae.*:FutureWarning")

HALF = {DemoModel.SD21, DemoModel.SDXL, DemoModel.SDXL_REFINER}
REPOSITORY = Path(__file__).parents[2]
SINGLE_FILES = [
    (DemoModel.SD15_SINGLE, DemoModel.SD15, StableDiffusionPipeline, torch.float32),
    (DemoModel.SDXL_SINGLE, DemoModel.SDXL, StableDiffusionXLPipeline, torch.float16),
]


def paint(pipeline: Any, prompt: str = "a red cat on a hill", seed: int = 7) -> NDArray[np.float32]:
    """One picture, [64, 64, 3] in 0 to 1."""
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator("cpu").manual_seed(seed)
    result = pipeline(prompt, width=64, height=64, num_inference_steps=2, generator=generator, output_type="np")
    return np.asarray(result.images[0], dtype=np.float32)


def load(root: Path, model: DemoModel) -> Any:
    dtype = torch.float16 if model is DemoModel.SDXL else torch.float32
    return DiffusionPipeline.from_pretrained(root / model, dtype=dtype, local_files_only=True)


def align(pipeline: Any) -> None:
    """Move every weight to memory of torch's own alignment. The CPU's matrix kernels round differently on weights that
    are mapped from a file at odd addresses: equal weights then paint pictures that differ in the last bits."""
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            for parameter in module.parameters():
                parameter.data = parameter.data.clone()


def fingerprint(folder: Path) -> dict[str, str]:
    """Every file beneath `folder` with the SHA-256 of its content."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("model", [model for model in FOLDERS if model not in WITHIN_MASKS | FROM_PICTURES])
def test_folder_paints_a_finite_picture_that_prompt_and_seed_change(models: Path, model: DemoModel) -> None:
    pipeline = load(models, model)
    picture = paint(pipeline)
    assert picture.shape == (64, 64, 3)
    assert np.isfinite(picture).all()
    assert picture.std() > 0.05
    assert np.array_equal(picture, paint(pipeline))
    assert not np.array_equal((picture * 255).round(), (paint(pipeline, seed=8) * 255).round())
    assert not np.array_equal((picture * 255).round(), (paint(pipeline, "blue") * 255).round())


@pytest.mark.parametrize(("single", "folder", "pipeline_class", "dtype"), SINGLE_FILES)
def test_single_file_is_bit_identical_to_its_folder(
    models: Path, single: DemoModel, folder: DemoModel, pipeline_class: Any, dtype: torch.dtype
) -> None:
    path = models / single
    loaded = pipeline_class.from_single_file(
        str(path), config=str(path.with_suffix("")), local_files_only=True, dtype=dtype
    )
    original = load(models, folder)
    for name, module in original.components.items():
        if isinstance(module, torch.nn.Module):
            weights = loaded.components[name].state_dict()
            assert weights.keys() == module.state_dict().keys()
            assert all(torch.equal(weights[key], value) for key, value in module.state_dict().items()), name
    align(loaded)
    align(original)
    assert np.array_equal(paint(loaded), paint(original))


def test_every_tensor_of_a_folder_is_in_its_single_file(models: Path) -> None:
    counts = {}
    for single, folder, _, _ in SINGLE_FILES:
        with safe_open(models / single, "pt") as file:
            extra = [key for key in file.keys() if key.endswith(("position_ids", "logit_scale"))]  # noqa: SIM118
            numbers = sum(file.get_tensor(key).numel() for key in file.keys() if key not in extra)  # noqa: SIM118
        parts = [load_file(path) for path in (models / folder).rglob("*.safetensors")]
        counts[single] = (numbers, sum(tensor.numel() for part in parts for tensor in part.values()))
    assert all(one == other for one, other in counts.values()), counts


@pytest.mark.parametrize("single", [entry[0] for entry in SINGLE_FILES])
def test_single_file_says_who_made_it_and_its_folder_has_no_weights(models: Path, single: DemoModel) -> None:
    with safe_open(models / single, "pt") as file:
        header = file.metadata()
    for key in ("title", "author", "architecture", "license", "tags", "date"):
        assert header[f"modelspec.{key}"]
    folder = (models / single).with_suffix("")
    assert (folder / "model_index.json").is_file()
    assert not list(folder.rglob("*.safetensors"))


def test_some_are_stored_in_half_precision_and_the_others_in_full(models: Path) -> None:
    for model in FOLDERS:
        wanted = torch.float16 if model in HALF else torch.float32
        for path in (models / model).rglob("*.safetensors"):
            assert {tensor.dtype for tensor in load_file(path).values()} == {wanted}, path


def test_sdxl_text_encoders_differ_in_width(models: Path) -> None:
    first, second = (
        json.loads((models / DemoModel.SDXL / name / "config.json").read_text())["hidden_size"]
        for name in ("text_encoder", "text_encoder_2")
    )
    assert first != second


def test_sd15_and_flux_share_one_text_encoder(models: Path) -> None:
    sd15, flux = (
        (models / model / "text_encoder" / "model.safetensors").read_bytes()
        for model in (DemoModel.SD15, DemoModel.FLUX)
    )
    assert sd15 == flux


def test_a_process_of_its_own_makes_the_same_bytes(models: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "demo.models",
        str(tmp_path),
        "--only",
        DemoModel.SDXL_SINGLE,
        "--no-virtual",
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY, timeout=60)
    made = fingerprint(tmp_path)
    there = fingerprint(models)
    assert made
    assert {name: there[name] for name in made} == made


def test_making_again_changes_nothing_and_replaces_what_is_incomplete(tmp_path: Path) -> None:
    told: list[str] = []
    (path,) = make_models(tmp_path, ["tiny-flux"], told.append)
    before = fingerprint(tmp_path)
    stamp = (path / "model_index.json").stat().st_mtime_ns
    make_models(tmp_path, ["tiny-flux"], told.append)
    assert (path / "model_index.json").stat().st_mtime_ns == stamp
    (path / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    assert not is_complete(path)
    make_models(tmp_path, ["tiny-flux"])
    assert fingerprint(tmp_path) == before
    assert told == ["tiny-flux", "tiny-flux"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny-flux"]


def test_an_unknown_name_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tiny-sd9"):
        make_models(tmp_path, ["tiny-sd9"])
    assert not list(tmp_path.iterdir())
