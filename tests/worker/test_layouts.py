"""The records' layouts say what diffusers' own conversions do, tensor by tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import FluxTransformer2DModel, ModelMixin, SD3Transformer2DModel, ZImageTransformer2DModel
from diffusers.loaders import single_file_utils

from demo.original import UNET_PREFIX, transformer_to_original
from modelfiles import families
from worker.originals import converted, lacking


def flux() -> FluxTransformer2DModel:
    """One block of each kind in the real width, which diffusers' conversion takes for granted."""
    return FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)


def sd3() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        num_layers=3, num_attention_heads=2, caption_projection_dim=128, dual_attention_layers=(0,), qk_norm="rms_norm"
    )


def z_image() -> ZImageTransformer2DModel:
    return ZImageTransformer2DModel(dim=64, n_layers=2, n_heads=2, n_kv_heads=2, axes_dims=[8, 12, 12])


LAYOUTS = [
    ("Flux.1", flux, "convert_flux_transformer_checkpoint_to_diffusers"),
    ("Stable Diffusion 3", sd3, "convert_sd3_transformer_checkpoint_to_diffusers"),
    ("Z-Image", z_image, "convert_z_image_transformer_checkpoint_to_diffusers"),
]


def columns(module: ModelMixin) -> dict[str, torch.Tensor]:
    """A column for each tensor, of as many rows, no two values alike: layouts move rows alone."""
    made, count = {}, 0
    for name, tensor in module.state_dict(keep_vars=True).items():
        made[name] = torch.arange(count, count + tensor.shape[0])
        count += tensor.shape[0]
    return made


@pytest.mark.parametrize(("name", "make", "conversion"), LAYOUTS)
@pytest.mark.parametrize("prefix", [UNET_PREFIX, ""])
def test_a_layout_is_the_librarys(name: str, make: Callable[[], Any], conversion: str, prefix: str) -> None:
    family = families.named(name)
    assert family is not None
    with torch.device("meta"):
        module = make()
    own = columns(module)
    original = {
        key.replace(UNET_PREFIX, prefix): tensor for key, tensor in transformer_to_original(own, family.layout).items()
    }
    theirs = getattr(single_file_utils, conversion)(dict(original))
    ours = converted(family, type(module).__name__, module, (UNET_PREFIX,), original)
    assert ours is not None
    assert ours.keys() == theirs.keys() == own.keys()
    assert all(torch.equal(ours[key], own[key]) and torch.equal(theirs[key], own[key]) for key in own)


@pytest.mark.parametrize(("name", "make", "conversion"), LAYOUTS)
def test_names_of_the_class_itself_are_taken_as_they_are(name: str, make: Callable[[], Any], conversion: str) -> None:
    family = families.named(name)
    assert family is not None
    with torch.device("meta"):
        module = make()
    own = columns(module)
    for prefix in ("", UNET_PREFIX):
        held = {prefix + key: tensor for key, tensor in own.items()}
        found = converted(family, type(module).__name__, module, (UNET_PREFIX,), held)
        assert found is not None and all(found[key] is own[key] for key in own)
    assert converted(family, type(module).__name__, module, (UNET_PREFIX,), {"x": torch.zeros(1)}) is None
    assert lacking(family, "AutoencoderKL", module, (UNET_PREFIX,), []) == []
