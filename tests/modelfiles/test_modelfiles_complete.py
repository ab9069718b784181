"""A single file that lacks a tensor of its family's, or has it of another shape, is refused by tables alone."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from model_bytes import tensor_file

from modelfiles.complete import MOST_LACKING, asked_by, check_complete
from modelfiles.model import ModelFile, inspect
from modelfiles.paths import Roots
from protocol.errors import ErrorCode, Fault

Shapes = dict[str, tuple[int, ...]]
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def whole(configuration: str) -> Shapes:
    return {name: shape for asked in asked_by(configuration).values() for name, shape in asked.items()}


def with_holes(path: Path, shapes: Shapes) -> ModelFile:
    return inspect(tensor_file(path, shapes, holes=True), Roots([path.parent]))


@pytest.mark.parametrize("configuration", ["sd15", "sdxl", "sdxl_refiner"])
def test_a_whole_file_is_taken_and_one_tensor_less_is_named(tmp_path: Path, configuration: str) -> None:
    shapes = whole(configuration)
    check_complete(with_holes(tmp_path / "whole.safetensors", shapes), configured=False)
    for part, asked in asked_by(configuration).items():
        lost = random.Random(part).choice([name for name in asked if name != FIRST])
        left = {name: shape for name, shape in shapes.items() if name != lost}
        file = with_holes(tmp_path / "lacking.safetensors", left)
        with pytest.raises(Fault) as caught:
            check_complete(file, configured=False)
        assert caught.value.info.code is ErrorCode.MODEL_CORRUPTED
        assert caught.value.info.details["part"] == part
        assert caught.value.info.details["missing"] == [lost]


def test_another_shape_is_told_with_found_and_expected(tmp_path: Path) -> None:
    shapes = whole("sd15")
    name = "first_stage_model.decoder.conv_out.weight"
    file = with_holes(tmp_path / "m.safetensors", {**shapes, name: (3, 64, 3, 3)})
    with pytest.raises(Fault) as caught:
        check_complete(file, configured=False)
    assert caught.value.info.code is ErrorCode.MODEL_LOADING_FAILED
    details = caught.value.info.details
    assert (details["found"], details["expected"]) == ([3, 64, 3, 3], list(shapes[name]))
    assert "config_path" in caught.value.info.message


def test_a_file_of_other_shapes_is_another_model_whatever_it_lacks(tmp_path: Path) -> None:
    shapes = dict(list(whole("sd15").items())[20:])
    name = "first_stage_model.decoder.conv_out.weight"
    with pytest.raises(Fault) as caught:
        check_complete(
            with_holes(tmp_path / "m.safetensors", {**shapes, FIRST: (320, 4, 3, 3), name: (3, 64, 3, 3)}),
            configured=False,
        )
    assert caught.value.info.code is ErrorCode.MODEL_LOADING_FAILED


def test_a_configuration_of_its_own_says_what_a_file_must_hold(tmp_path: Path) -> None:
    shapes = {**whole("sd15"), "first_stage_model.decoder.conv_out.weight": (3, 64, 3, 3)}
    check_complete(with_holes(tmp_path / "m.safetensors", shapes), configured=True)


def test_the_channels_are_the_files_own_to_say(tmp_path: Path) -> None:
    shapes = {**whole("sd15"), FIRST: (320, 9, 3, 3)}
    check_complete(with_holes(tmp_path / "m.safetensors", shapes), configured=False)


def test_linear_layers_may_be_convolutions_of_one_pixel(tmp_path: Path) -> None:
    shapes = {name: shape[:2] if ".attn_1." in name else shape for name, shape in whole("sd15").items()}
    check_complete(with_holes(tmp_path / "m.safetensors", shapes), configured=False)


@pytest.mark.parametrize(("spare", "told"), [(0, False), (1, True)])
def test_a_part_with_other_names_is_left_to_the_loader(tmp_path: Path, spare: int, told: bool) -> None:
    shapes, encoder = whole("sd15"), list(asked_by("sd15")["text_encoder"])
    kept = int((1 - MOST_LACKING) * len(encoder)) - 1 + spare
    other = {name.replace("text_model.", "") if name in encoder[kept:] else name: s for name, s in shapes.items()}
    file = with_holes(tmp_path / "m.safetensors", other)
    if not told:
        check_complete(file, configured=False)
        return
    with pytest.raises(Fault, match="lacks the tensor"):
        check_complete(file, configured=False)
