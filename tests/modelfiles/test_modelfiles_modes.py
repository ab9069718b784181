"""What a model can be asked to draw is told by the channels of its denoiser and by its parts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file

from modelfiles.model import ModelFile, inspect
from modelfiles.modes import check_channels, modes_of
from modelfiles.paths import Roots
from protocol.drawing import Mode
from protocol.errors import ErrorCode, Fault

FIRST, LATENT = SD15_NAMES[0], "first_stage_model.decoder.conv_in.weight"


def folder(tmp_path: Path, in_channels: object = 4, latent_channels: object = 4) -> ModelFile:
    made = pipeline_folder(tmp_path / "sd")
    for name, key, value in (("unet", "in_channels", in_channels), ("vae", "latent_channels", latent_channels)):
        path = made / name / "config.json"
        config = json.loads(path.read_text()) | ({} if value is None else {key: value})
        path.write_text(json.dumps(config))
    return inspect(made, Roots([tmp_path]))


def single(tmp_path: Path, channels: int) -> ModelFile:
    shapes = {**{name: [1] for name in SD15_NAMES}, FIRST: [8, channels, 3, 3], LATENT: [8, 4, 3, 3]}
    return inspect(tensor_file(tmp_path / "m.safetensors", shapes), Roots([tmp_path]))


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(8, "edits pictures by instruction"), (5, "of another kind"), (7, "of another kind"), (10, "of another kind")],
)
def test_other_channels_than_its_latents_are_told_by_part_found_and_expected(
    tmp_path: Path, channels: int, kind: str
) -> None:
    for file, tensor in ((folder(tmp_path, channels), "conv_in.weight"), (single(tmp_path, channels), FIRST)):
        assert modes_of(file) == ()
        with pytest.raises(Fault) as caught:
            check_channels(file)
        info = caught.value.info
        assert (info.code, kind in info.message) == (ErrorCode.MODEL_INCOMPATIBLE, True)
        told = {"part": "unet", "tensor": tensor, "found": channels, "expected": 4}
        assert told.items() <= info.details.items()


def test_a_model_of_its_latents_channels_draws_from_text_and_from_pictures(tmp_path: Path) -> None:
    for file in (folder(tmp_path), single(tmp_path, 4)):
        check_channels(file)
        assert modes_of(file) == tuple(Mode)


@pytest.mark.parametrize(("in_channels", "latent_channels"), [(None, 4), (9, None), (4, 65536)])
def test_what_is_not_stated_is_not_held_against_a_model(
    tmp_path: Path, in_channels: int | None, latent_channels: int | None
) -> None:
    file = folder(tmp_path, in_channels, latent_channels)
    check_channels(file)
    assert modes_of(file) == tuple(Mode)


def test_parts_draw_nothing_and_profiles_draw_as_they_are_asked(tmp_path: Path) -> None:
    roots = Roots([tmp_path])
    vae = inspect(tensor_file(tmp_path / "vae.safetensors", ["decoder.conv_in.weight", "encoder.x"]), roots)
    assert modes_of(vae) == ()
    check_channels(vae)
    assert modes_of(inspect(json_file(tmp_path / "v.vmodel.json", PROFILE), roots)) == tuple(Mode)


def test_a_model_with_a_masks_channels_draws_within_one_alone(tmp_path: Path) -> None:
    for file in (folder(tmp_path, 9), single(tmp_path, 9)):
        check_channels(file)
        assert modes_of(file) == (Mode.INPAINT,)
