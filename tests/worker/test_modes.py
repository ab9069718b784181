"""What a model can draw is told at its load or when it is asked, and drawn where it can."""

from __future__ import annotations

import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from demo.inventory import FOLDERS
from modelfiles.model import inspect
from modelfiles.modes import modes_of
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.drawing import Mode
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, Outcome, worker_spec

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.mark.parametrize("channels", [5, 8, 10])
def test_a_denoiser_of_other_channels_is_refused_at_the_load_and_evicts_nobody(
    model_root: Path, root: Path, channels: int
) -> None:
    shutil.copytree(model_root / "tiny-sd15", root / "plain")
    widened(model_root / "tiny-sd15", root / "other", channels)
    bench = Bench(root, worker_spec(root))
    bench.reply(LoadModelReply, c.LoadModel(model_id="plain"), "plain")
    error = bench.error(c.LoadModel(model_id="other"), "other")
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert (error.details["part"], error.details["found"], error.details["expected"]) == ("unet", channels, 4)
    assert bench.engine.cache.get("plain") is not None


def widened(source: Path, folder: Path, channels: int) -> Path:
    """A copy whose UNet takes more channels, which change nothing that it draws."""
    unet = shutil.copytree(source, folder) / "unet"
    tensors = load_file(unet / WEIGHTS)
    first = tensors["conv_in.weight"]
    tensors["conv_in.weight"] = torch.cat([first, torch.zeros(first.shape[0], channels - 4, 3, 3)], 1)
    save_file(tensors, unet / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps(config | {"in_channels": channels}))
    return folder


def test_a_refiner_draws_from_a_picture_and_says_that_it_needs_one(model_root: Path, root: Path) -> None:
    shutil.copytree(model_root / "tiny-sdxl-refiner", root / "refiner")
    assert modes_of(inspect(root / "refiner", Roots([root]))) == (Mode.IMAGE, Mode.INPAINT)
    bench = Bench(root, worker_spec(root))
    picture = png(Image.new("RGB", (64, 64), (200, 30, 30)))
    attachments = [c.Attachment(name="image-0", media_type="image/png", bytes=len(picture))]
    command = c.Generate(
        model_id="refiner", prompt="x", seed=1, steps=4, strength=0.5, width=64, height=64, attachments=attachments
    )
    outcome = bench.run(command, "refiner", [picture])
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    assert Image.open(io.BytesIO(outcome.attachments[0])).size == (64, 64)


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


NOISE = Image.frombytes("RGB", (64, 64), random.Random(5).randbytes(64 * 64 * 3))
LEFT = Image.new("L", (64, 64))
LEFT.paste(255, (0, 0, 32, 64))


def painted(bench: Bench, model_id: str, mask: Image.Image, **fields: Any) -> Outcome:
    """A picture drawn within a mask over `NOISE`, the mask sent first."""
    files = {"mask": png(mask), "image-0": png(NOISE)}
    attachments = [c.Attachment(name=name, media_type="image/png", bytes=len(data)) for name, data in files.items()]
    command = c.Generate(model_id=model_id, prompt="x", seed=1, steps=4, attachments=attachments, **fields)
    return bench.run(command, model_id, list(files.values()))


@pytest.mark.parametrize("name", FOLDERS)
def test_within_a_mask_all_is_painted_and_beside_it_every_pixel_is_kept(
    model_root: Path, root: Path, name: str
) -> None:
    shutil.copytree(model_root / name, root / name)
    bench = Bench(root, worker_spec(root))
    outcome = painted(bench, name, LEFT)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    drawn, before = Image.open(io.BytesIO(outcome.attachments[0])), NOISE
    assert drawn.size == (64, 64)
    right, left = (32, 0, 64, 64), (0, 0, 32, 64)
    assert drawn.crop(right).tobytes() == before.crop(right).tobytes()
    one, other = drawn.crop(left).tobytes(), before.crop(left).tobytes()
    assert sum(a == b for a, b in zip(one, other, strict=True)) < len(one) // 10
    if name == "tiny-sd15":
        again = painted(bench, name, Image.new("L", (64, 64)))
        assert again.attachments[0] and Image.open(io.BytesIO(again.attachments[0])).tobytes() == before.tobytes()
        assert any("black everywhere" in warning for warning in again.reply.warnings)


@pytest.mark.parametrize("name", ["tiny-sd15-inpaint", "tiny-sd15-inpaint-single.safetensors"])
def test_an_inpainting_model_draws_within_a_mask_alone(model_root: Path, name: str) -> None:
    file = inspect(model_root / name, Roots([model_root]))
    assert (file.in_channels, modes_of(file)) == (9, (Mode.INPAINT,))


def test_a_mask_of_another_shape_is_refused_by_its_place_and_one_of_another_size_is_scaled(
    model_root: Path, root: Path
) -> None:
    bench = Bench(root, worker_spec(root))
    shutil.copytree(model_root / "tiny-sd15", root / "m")
    error = painted(bench, "m", LEFT.resize((64, 32))).reply.error
    assert error is not None and error.code is ErrorCode.INVALID_ARGUMENT
    assert "attachments[0] is '64 x 32': expected the picture's shape, 64 x 64" in error.message
    outcome = painted(bench, "m", LEFT.resize((128, 128)))
    drawn = Image.open(io.BytesIO(outcome.attachments[0]))
    assert drawn.crop((33, 0, 64, 64)).tobytes() == NOISE.crop((33, 0, 64, 64)).tobytes()
