"""What a model can draw is told at its load or when it is asked, and drawn where it can."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file

from modelfiles.model import inspect
from modelfiles.modes import modes_of
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.enums import Mode
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, worker_spec

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    made = tmp_path / "models"
    made.mkdir()
    return made


@pytest.mark.parametrize("channels", [5, 8, 9])
def test_a_denoiser_of_other_channels_is_refused_at_the_load_and_evicts_nobody(
    model_root: Path, root: Path, channels: int
) -> None:
    shutil.copytree(model_root / "tiny-sd15", root / "plain")
    unet = shutil.copytree(model_root / "tiny-sd15", root / "other") / "unet"
    tensors = load_file(unet / WEIGHTS)
    first = tensors["conv_in.weight"]
    tensors["conv_in.weight"] = torch.cat([first, torch.zeros(first.shape[0], channels - 4, 3, 3)], 1)
    save_file(tensors, unet / WEIGHTS, metadata={"format": "pt"})
    config = json.loads((unet / "config.json").read_text())
    (unet / "config.json").write_text(json.dumps(config | {"in_channels": channels}))
    bench = Bench(root, worker_spec(root))
    bench.reply(LoadModelReply, c.LoadModel(model_id="plain"), "plain")
    error = bench.error(c.LoadModel(model_id="other"), "other")
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert (error.details["part"], error.details["found"], error.details["expected"]) == ("unet", channels, 4)
    assert bench.engine.cache.get("plain") is not None


def refiner(source: Path, folder: Path) -> None:
    """SDXL's second stage in small: the second text encoder alone, and a UNet that is told an aesthetic score."""
    shutil.copytree(source, folder)
    for part in ("text_encoder", "tokenizer"):
        shutil.rmtree(folder / part)
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionXLImg2ImgPipeline",
        "text_encoder": [None, None],
        "tokenizer": [None, None],
    }
    index |= {"requires_aesthetics_score": True, "force_zeros_for_empty_prompt": False}
    (folder / "model_index.json").write_text(json.dumps(index))
    config: dict[str, Any] = json.loads((folder / "unet/config.json").read_text())
    config = {key: value for key, value in config.items() if not key.startswith("_")}
    second = json.loads((folder / "text_encoder_2/config.json").read_text())
    config["cross_attention_dim"] = second["hidden_size"]
    config["projection_class_embeddings_input_dim"] = second["projection_dim"] + 5 * config["addition_time_embed_dim"]
    UNet2DConditionModel(**config).half().save_pretrained(folder / "unet")


def test_a_refiner_draws_from_a_picture_and_says_that_it_needs_one(model_root: Path, root: Path) -> None:
    refiner(model_root / "tiny-sdxl", root / "refiner")
    assert modes_of(inspect(root / "refiner", Roots([root]))) == (Mode.IMAGE,)
    bench = Bench(root, worker_spec(root))
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(buffer, "PNG")
    picture = buffer.getvalue()
    attachments = [c.Attachment(name="image-0", media_type="image/png", bytes=len(picture))]
    command = c.Generate(
        model_id="refiner", prompt="x", seed=1, steps=4, strength=0.5, width=64, height=64, attachments=attachments
    )
    outcome = bench.run(command, "refiner", [picture])
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    assert Image.open(io.BytesIO(outcome.attachments[0])).size == (64, 64)
