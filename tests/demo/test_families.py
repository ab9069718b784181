"""The project's own family configurations describe the published models exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers import AutoencoderKL, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from demo.published import ENCODERS, published
from demo.tokenizer import clip_tokenizer
from modelfiles.complete import ASKED, asked_by

FAMILIES = Path(__file__).parents[2] / "modelfiles" / "configurations"
PARAMETERS = [
    ("sd15", "unet", UNet2DConditionModel, 859_520_964),
    ("sd15", "vae", AutoencoderKL, 83_653_863),
    ("sd15", "text_encoder", CLIPTextModel, 123_060_480),
    ("sdxl", "unet", UNet2DConditionModel, 2_567_463_684),
    ("sdxl", "vae", AutoencoderKL, 83_653_863),
    ("sdxl", "text_encoder", CLIPTextModel, 123_060_480),
    ("sdxl", "text_encoder_2", CLIPTextModelWithProjection, 694_659_840),
    ("sdxl_refiner", "unet", UNet2DConditionModel, 2_259_526_660),
    ("sdxl_refiner", "text_encoder_2", CLIPTextModelWithProjection, 694_659_840),
]


def settings(*parts: str) -> Any:
    return json.loads(FAMILIES.joinpath(*parts).read_text())


def on_meta(module_class: Any, family: str, component: str) -> torch.nn.Module:
    """The component without memory for its weights."""
    with torch.device("meta"):
        if issubclass(module_class, diffusers.ModelMixin):
            module: torch.nn.Module = module_class.from_config(settings(family, component, "config.json"))
            return module
        path = FAMILIES / family / component / "config.json"
        built: torch.nn.Module = module_class(CLIPTextConfig.from_json_file(path))
        return built


@pytest.mark.parametrize(("family", "component", "module_class", "count"), PARAMETERS)
def test_component_has_the_published_number_of_parameters(
    family: str, component: str, module_class: Any, count: int
) -> None:
    assert sum(parameter.numel() for parameter in on_meta(module_class, family, component).parameters()) == count


@pytest.mark.parametrize("family", ["sd15", "sdxl", "sdxl_refiner"])
def test_index_names_components_that_have_configurations_and_no_code(family: str) -> None:
    index = settings(family, "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list) and value[0] is not None}
    libraries = {"diffusers": diffusers, "transformers": transformers}
    for name, (library, class_name) in parts.items():
        assert hasattr(libraries[library], class_name)
        assert list((FAMILIES / family / name).glob("*.json")), name
    assert hasattr(diffusers, index["_class_name"])
    others = {path.name for path in FAMILIES.rglob("*") if path.is_file() and path.suffix != ".json"}
    assert others == {ASKED}


@pytest.mark.parametrize("configuration", list(ENCODERS))
def test_the_tables_of_tensors_are_what_the_configurations_ask_for(configuration: str) -> None:
    assert asked_by(configuration) == published(configuration)


def test_schedulers_take_every_setting() -> None:
    for scheduler, family in (
        (PNDMScheduler, "sd15"),
        (EulerDiscreteScheduler, "sdxl"),
        (EulerDiscreteScheduler, "sdxl_refiner"),
    ):
        config = settings(family, "scheduler", "scheduler_config.json")
        made, unused = scheduler.from_config(config, return_unused_kwargs=True)
        assert set(unused) <= {"_class_name"}
        assert (made.config.beta_start, made.config.beta_end) == (0.00085, 0.012)


@pytest.mark.parametrize(
    ("folder", "pad_token"),
    [("sd15/tokenizer", "<|endoftext|>"), ("sdxl/tokenizer", "<|endoftext|>"), ("sdxl/tokenizer_2", "!")],
)
def test_tokenizers_name_tokens_of_the_vocabulary(folder: str, pad_token: str) -> None:
    config = settings(folder, "tokenizer_config.json")
    assert config["pad_token"] == pad_token
    vocabulary = clip_tokenizer().get_vocab()
    assert all(config[name] in vocabulary for name in ("bos_token", "eos_token", "pad_token", "unk_token"))
