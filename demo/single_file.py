"""Single-file checkpoints in the original layout, each with a configuration folder of its stem beside it.

Decides what such a file holds: the tensors under their original names, the bookkeeping tensors that published files
carry, and a ModelSpec header. Knows nothing of how one is loaded.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NamedTuple

import msgspec
from safetensors.torch import save_file

from demo.original import Tensors

WEIGHT_FILES = "*.safetensors"
MODELSPEC_VERSION = "1.0.0"


class ModelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The `modelspec.*` keys of a safetensors header (Stability AI's Model Metadata Standard)."""

    title: str
    architecture: str
    tags: str
    description: str
    sai_model_spec: str = MODELSPEC_VERSION
    implementation: str = "sgm"
    author: str = "vrambroker demo"
    license: str = "Apache-2.0"
    date: str = "2025-01-01"
    resolution: str = "64x64"
    prediction_type: str = "epsilon"

    def titled(self, title: str) -> ModelSpec:
        return msgspec.structs.replace(self, title=title)


class Single(NamedTuple):
    """What a single file holds: its tensors under their original names, and its header."""

    tensors: Tensors
    spec: ModelSpec


def write_single_file(path: Path, single: Single) -> None:
    """Write the tensors and the ModelSpec header to `path`."""
    said = msgspec.structs.asdict(single.spec)
    header = {f"modelspec.{key}": str(value) for key, value in said.items() if value}
    contiguous = {name: tensor.contiguous() for name, tensor in single.tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt", **header})
    sort_metadata(path)


def sort_metadata(path: Path) -> None:
    """Put the header's metadata in alphabetical order: the library writes it in a new order each time, and one model
    should have one checksum. The header keeps its length, so the tensors stay where they are."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        file.seek(8)
        file.write(ordered.ljust(length))


def write_configuration(source: Path, target: Path) -> None:
    """Copy a pipeline folder without its weights: what a single file lacks to become a pipeline."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(WEIGHT_FILES))
