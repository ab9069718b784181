"""Which demonstration models there are, and whether one is complete.

Decides names and completeness, from file names alone: no model is opened and torch is not imported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path


class DemoModel(StrEnum):
    """Every demonstration model: the name of its folder, or of its single file with the folder of that stem."""

    SD15 = "tiny-sd15"
    SD15_INPAINT = "tiny-sd15-inpaint"
    SD21 = "tiny-sd21"
    SDXL = "tiny-sdxl"
    SDXL_REFINER = "tiny-sdxl-refiner"
    FLUX = "tiny-flux"
    SD3 = "tiny-sd3"
    Z_IMAGE = "tiny-z-image"
    QWEN_IMAGE = "tiny-qwen-image"
    SD15_SINGLE = "tiny-sd15-single.safetensors"
    SD15_INPAINT_SINGLE = "tiny-sd15-inpaint-single.safetensors"
    SD21_SINGLE = "tiny-sd21-single.safetensors"
    SDXL_SINGLE = "tiny-sdxl-single.safetensors"
    SDXL_REFINER_SINGLE = "tiny-sdxl-refiner-single.safetensors"
    FLUX_SINGLE = "tiny-flux-single.safetensors"
    SD3_SINGLE = "tiny-sd3-single.safetensors"


SINGLE_FILE = "-single.safetensors"
WITHIN_MASKS = frozenset({DemoModel.SD15_INPAINT})
FROM_PICTURES = frozenset({DemoModel.SDXL_REFINER})
"""Models that draw within a mask alone, and those that go on from a picture."""

FOLDERS = [model for model in DemoModel if not model.endswith(SINGLE_FILE)]
SINGLE_FILE_SOURCE = {
    model: DemoModel(model.removesuffix(SINGLE_FILE)) for model in DemoModel if model.endswith(SINGLE_FILE)
}
WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor")


def wanted(only: Sequence[str] | None) -> list[DemoModel]:
    """The models that `only` names and the sources they need, in the order of `DemoModel`; all when it is None."""
    if only is None:
        return list(DemoModel)
    named = {DemoModel(name) for name in only}
    needed = named | {SINGLE_FILE_SOURCE[model] for model in named if model in SINGLE_FILE_SOURCE}
    return [model for model in DemoModel if model in needed]


def is_complete(path: Path) -> bool:
    """Whether the folder, or the single file and its configuration folder, has every part its index names."""
    if path.suffix == ".safetensors":
        return path.is_file() and has_parts(path.with_suffix(""), weights=False)
    return has_parts(path, weights=True)


def has_parts(folder: Path, *, weights: bool) -> bool:
    """Whether each component in `model_index.json` has its folder with files, and weights where it should."""
    index = folder / "model_index.json"
    if not index.is_file():
        return False
    entries = json.loads(index.read_text())
    components = [name for name, value in entries.items() if isinstance(value, list) and value[0] is not None]
    return all(
        any((folder / name).glob("*.safetensors" if weights and not name.startswith(WEIGHTLESS) else "*.json"))
        for name in components
    )
