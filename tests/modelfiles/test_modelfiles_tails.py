"""Downloads that took all their room at the start: a whole header, and an end that was never written."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from model_bytes import SD15_NAMES, header_file, pipeline_folder

from modelfiles import tails
from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol.enums import ModelType
from protocol.errors import ErrorCode, Fault

SIDE = 64
MATRIX_BYTES = SIDE * SIDE * 4
UNET = "model.diffusion_model."


def checkpoint(path: Path, written: float, *, matrices: int = 40, names: list[str] | None = None) -> Path:
    """A checkpoint of `matrices` random matrices and as many zero biases, written up to a share of its data."""
    named = names or [*SD15_NAMES, *(f"{UNET}middle_block.{n}.weight" for n in range(matrices - len(SD15_NAMES)))]
    header: dict[str, object] = {}
    data = bytearray()
    chance = random.Random(5)
    for name in named:
        for full, shape, content in (
            (name, [SIDE, SIDE], chance.randbytes(MATRIX_BYTES)),
            (f"{name}.bias", [SIDE], bytes(4 * SIDE)),
        ):
            header[full] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
            data += content
    keep = int(len(data) * written)
    data[keep:] = bytes(len(data) - keep)
    return header_file(path, header, bytes(data))


def fault_of(path: Path) -> Fault | None:
    try:
        inspect(path, Roots([path.parent]))
    except Fault as fault:
        return fault
    return None


@pytest.mark.parametrize("written", [0.02, 0.5, 0.9])
def test_an_end_that_was_never_written_is_an_unfinished_download_with_its_numbers(
    tmp_path: Path, written: float
) -> None:
    fault = fault_of(checkpoint(tmp_path / "m.safetensors", written))
    assert fault is not None
    assert (fault.code, "unfinished download" in str(fault)) == (ErrorCode.MODEL_CORRUPTED, True)
    details = fault.info.details
    assert details["empty_bytes"] == pytest.approx(details["data_bytes"] * (1 - written), abs=2 * tails.LOOK_BYTES)


@pytest.mark.parametrize("written", [0.0, 1.0])
def test_whole_files_and_files_of_nothing_but_zeros_are_none(tmp_path: Path, written: float) -> None:
    assert fault_of(checkpoint(tmp_path / "m.safetensors", written)) is None


@pytest.mark.parametrize(("empty", "is_refused"), [(2, False), (3, True)])
def test_from_three_whole_matrices_on_zeros_are_no_weights(tmp_path: Path, empty: int, is_refused: bool) -> None:
    path = checkpoint(tmp_path / "m.safetensors", 1 - (empty + 0.01) / 40)
    assert (fault_of(path) is not None) == is_refused


@pytest.mark.parametrize(("matrices", "is_refused"), [(90, True), (110, False)])
def test_three_matrices_of_a_large_model_may_have_learned_nothing(
    tmp_path: Path, matrices: int, is_refused: bool
) -> None:
    path = checkpoint(tmp_path / "m.safetensors", 1 - 3.01 / matrices, matrices=matrices)
    assert (fault_of(path) is not None) == is_refused


def test_a_file_with_a_hole_to_its_end_is_told_without_reading_it(tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.safetensors", 1.0)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
        file.truncate(size)
    fault = fault_of(path)
    assert fault is not None and "unfinished download" in str(fault)


def test_a_large_end_of_one_matrix_counts_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = checkpoint(tmp_path / "m.safetensors", 1 - 0.5 / 40)
    assert fault_of(path) is None
    monkeypatch.setattr(tails, "LARGE_BYTES", MATRIX_BYTES // 4)
    assert fault_of(path) is not None


def test_an_adapter_may_end_in_matrices_that_learned_nothing(tmp_path: Path) -> None:
    names = [f"lora_unet_m{n}.lora_{kind}.weight" for kind in ("down", "up") for n in range(5)]
    path = checkpoint(tmp_path / "m.safetensors", 0.5, names=names)
    assert inspect(path, Roots([tmp_path])).type is ModelType.LoRA


def test_a_part_of_a_folder_is_looked_at_too(tmp_path: Path) -> None:
    folder = pipeline_folder(tmp_path / "sd")
    names = [f"mid_block.{n}.weight" for n in range(10)]
    checkpoint(folder / "unet/diffusion_pytorch_model.safetensors", 0.4, names=names)
    fault = fault_of(folder)
    assert fault is not None and "unfinished download" in str(fault)
