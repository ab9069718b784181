"""Making one demonstration model on disk, with torch and diffusers.

Decides which files a model consists of. What is complete already is not asked here: `models.py` does.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from diffusers import DiffusionPipeline

from demo.inventory import SINGLE_FILE_SOURCE, DemoModel
from demo.place import placed
from demo.quiet import quiet_libraries
from demo.single_file import write_configuration, write_single_file
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
    if model in SINGLE_FILE_SOURCE:
        raise ValueError(f"{model} is a single file, made from {SINGLE_FILE_SOURCE[model]}")
    made: DiffusionPipeline = tiny(model).pipeline()
    return made


def tiny(model: DemoModel) -> ModuleType:
    """The module of a folder model."""
    return importlib.import_module(f"demo.tiny.{model.removeprefix('tiny-').replace('-', '_')}")


def write_clip_tokenizers(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Replace the CLIP tokenizers' large `tokenizer.json` by the vocabulary files that published models have."""
    for name, component in pipeline.components.items():
        if type(component).__name__ == CLIP_TOKENIZER:
            for file in (folder / name).iterdir():
                file.unlink()
            write_clip_tokenizer(folder / name, component.pad_token, len(component))


def make_single_file(source: Path, target: Path) -> None:
    """Make a single file in the original layout from the pipeline folder `source`: the same weights, tensor by tensor.

    Its configuration folder comes first, so that the file never stands without it.
    """
    with placed(target.with_suffix("")) as configuration:
        write_configuration(source, configuration)
    with placed(target) as file:
        made = tiny(DemoModel(source.name))
        pipeline = DiffusionPipeline.from_pretrained(source, dtype=made.DTYPE, local_files_only=True)
        write_single_file(file, made.single(pipeline))
