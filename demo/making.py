"""Making one demonstration model on disk, with torch and diffusers.

Decides which files a model consists of. What is complete already is not asked here: `models.py` does.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline

from demo import flux, sd3, sd15, sdxl
from demo.inventory import SINGLE_FILE_SOURCE, DemoModel
from demo.place import placed
from demo.quiet import quiet_libraries
from demo.single_file import (
    SD15_SPEC,
    SDXL_SPEC,
    sd15_tensors,
    sdxl_tensors,
    write_configuration,
    write_single_file,
)
from demo.tokenizer import write_clip_tokenizer

CLIP_TOKENIZER = "CLIPTokenizer"


def make_model(root: Path, model: DemoModel) -> None:
    """Make one model; a single file from the folder it is made of, which must be there."""
    with quiet_libraries():
        if model in SINGLE_FILE_SOURCE:
            make_single_file(root / SINGLE_FILE_SOURCE[model], root / model)
        else:
            make_folder(root / model, model)


def make_folder(target: Path, model: DemoModel) -> None:
    """Make one pipeline folder, safetensors only."""
    with placed(target) as folder:
        pipeline = build_pipeline(model)
        pipeline.save_pretrained(folder, safe_serialization=True)
        write_clip_tokenizers(pipeline, folder)


def build_pipeline(model: DemoModel) -> DiffusionPipeline:
    """The pipeline of a folder model. Raises ValueError for a single file."""
    match model:
        case DemoModel.SD15:
            return sd15.pipeline()
        case DemoModel.SDXL:
            return sdxl.pipeline()
        case DemoModel.FLUX:
            return flux.pipeline()
        case DemoModel.SD3:
            return sd3.pipeline()
        case _:
            raise ValueError(f"{model} is a single file, made from {SINGLE_FILE_SOURCE[model]}")


def write_clip_tokenizers(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Replace the CLIP tokenizers' large `tokenizer.json` by the vocabulary files that published models have."""
    for name, component in pipeline.components.items():
        if type(component).__name__ == CLIP_TOKENIZER:
            for file in (folder / name).iterdir():
                file.unlink()
            write_clip_tokenizer(folder / name, component.pad_token)


def make_single_file(source: Path, target: Path) -> None:
    """Make a single file in the original layout from the pipeline folder `source`: the same weights, tensor by tensor.

    Its configuration folder comes first, so that the file never stands without it.
    """
    with placed(target.with_suffix("")) as configuration:
        write_configuration(source, configuration)
    with placed(target) as file:
        if source.name == DemoModel.SD15:
            small = StableDiffusionPipeline.from_pretrained(source, dtype=torch.float32, local_files_only=True)
            write_single_file(file, sd15_tensors(small), SD15_SPEC)
        else:
            large = StableDiffusionXLPipeline.from_pretrained(source, dtype=torch.float16, local_files_only=True)
            write_single_file(file, sdxl_tensors(large), SDXL_SPEC)
