from __future__ import annotations

from pathlib import Path

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file

from modelfiles.model import Kind, inspect
from modelfiles.paths import Roots
from protocol.enums import ModelType
from protocol.errors import ErrorCode, Fault


@pytest.mark.parametrize("ending", ["ckpt", "bin", "pt", "pth", "pkl", "CKPT"])
def test_pickle_is_unsafe(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"m.{ending}").write_bytes(b"x")
    with pytest.raises(Fault) as caught:
        inspect(tmp_path / f"m.{ending}", Roots([tmp_path]))
    assert caught.value.code is ErrorCode.UNSAFE_MODEL


def test_file_that_is_no_model_is_an_invalid_argument(tmp_path: Path) -> None:
    (tmp_path / "m.txt").write_text("x")
    with pytest.raises(Fault) as caught:
        inspect(tmp_path / "m.txt", Roots([tmp_path]))
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT


def test_single_file_takes_the_folder_of_its_stem_as_configuration(tmp_path: Path) -> None:
    path = tensor_file(tmp_path / "m.safetensors", SD15_NAMES, {"modelspec.resolution": "512x768"})
    assert inspect(path, Roots([tmp_path])).config_path == ""
    folder = pipeline_folder(tmp_path / "m")
    for weights in folder.rglob("*.safetensors"):
        weights.unlink()
    found = inspect(path, Roots([tmp_path]))
    assert (found.kind, found.config_path, found.native_side) == (Kind.SINGLE, str(folder), 768)
    (folder / "pipeline.py").write_text("x")
    with pytest.raises(Fault) as caught:
        inspect(path, Roots([tmp_path]))
    assert caught.value.code is ErrorCode.UNSAFE_MODEL


def test_profile_is_a_model_of_its_own_bytes(tmp_path: Path) -> None:
    found = inspect(json_file(tmp_path / "v.vmodel.json", PROFILE), Roots([tmp_path]))
    assert (found.kind, found.type, found.size_bytes) == (Kind.VIRTUAL, ModelType.SDXL, 300)
    assert {part.name: part.size_bytes for part in found.parts} == {"unet": 200, "vae": 100}


@pytest.mark.parametrize(
    "changes",
    [
        {"bytes": 299},
        {"bytes": 0, "components": {}},
        {"components": {"unet": 400, "vae": -100}},
        {"peak_bytes": 299},
        {"load_ms": -1},
        {"step_ms": "1"},
        {"family": "Nothing"},
        {"extra": 1},
        {"family": None},
    ],
)
def test_profile_that_does_not_add_up_is_corrupted(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(Fault) as caught:
        inspect(json_file(tmp_path / "v.vmodel.json", {**PROFILE, **changes}), Roots([tmp_path]))
    assert caught.value.code is ErrorCode.MODEL_CORRUPTED


@pytest.mark.parametrize("name", ["notes.txt", "weights.ckpt", "cut.safetensors", "empty", "bad.vmodel.json"])
def test_every_refusal_names_the_field_and_the_file(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir() if "." not in name else path.write_bytes(b"\x10")
    with pytest.raises(Fault) as refused:
        inspect(path, Roots([tmp_path]))
    info = refused.value.info
    assert (info.details["field"], info.details["file"]) == ("model_path", name)
    assert name in info.message and str(tmp_path) not in info.message
    assert isinstance(info.retryable, bool) and isinstance(info.recovery, list)
