"""Models with one part that is missing, cut short, of another width or of another family; folders and single files.

Every change is made by a seeded generator to a copy of a small sound model; what is shared with that is linked.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file

from demo.inventory import FOLDERS, SINGLE_FILE_SOURCE, DemoModel
from modelfiles.model import inspect
from modelfiles.paths import Roots

INDEX = "model_index.json"


class Misfit(NamedTuple):
    """What is done to which part of which model."""

    model: DemoModel
    part: str
    change: str


def parts_of(folder: Path) -> dict[str, tuple[str, str]]:
    index = json.loads((folder / INDEX).read_text())
    return {name: tuple(pair) for name, pair in index.items() if isinstance(pair, list) and pair[0] is not None}


def misfits(models: Path) -> list[Misfit]:
    """Every change of every part of every small model."""
    folders = [
        Misfit(model, part, change)
        for model in FOLDERS
        for part in parts_of(models / model)
        for change in FOLDER_CHANGES
    ]
    singles = [
        Misfit(model, part.name, change)
        for model in SINGLE_FILE_SOURCE
        for part in inspect(models / model, Roots([models])).parts
        for change in SINGLE_CHANGES
    ]
    return folders + singles


def make(misfit: Misfit, models: Path, root: Path) -> str:
    """Make the changed model in `root`; its name there, "" where the change cannot be made to such a part."""
    chance = random.Random("/".join(misfit))
    source = models / misfit.model
    if misfit.model in SINGLE_FILE_SOURCE:
        target = root / "misfit.safetensors"
        shutil.copytree(source.with_suffix(""), target.with_suffix(""), copy_function=os.link)
        tensors = load_file(source)
        part = next(p for p in inspect(source, Roots([models])).parts if p.name == misfit.part)
        owned = sorted(name for name in tensors if name.startswith(tuple(part.prefixes)))
        SINGLE_CHANGES[misfit.change](tensors, owned, chance)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target)
        return target.name
    folder = shutil.copytree(source, root / "misfit", copy_function=os.link)
    done = FOLDER_CHANGES[misfit.change](folder, misfit, chance, models)
    return folder.name if done else ""


def _weights(part: Path) -> Path | None:
    return next(part.glob("*.safetensors"), None)


def _gone(folder: Path, misfit: Misfit, chance: random.Random, models: Path) -> bool:
    shutil.rmtree(folder / misfit.part)
    return True


def _unnamed(folder: Path, misfit: Misfit, chance: random.Random, models: Path) -> bool:
    index = json.loads((folder / INDEX).read_text())
    _write(folder / INDEX, json.dumps(index | {misfit.part: [None, None]}).encode())
    return True


def _cut(folder: Path, misfit: Misfit, chance: random.Random, models: Path) -> bool:
    part = folder / misfit.part
    read = sorted(path for path in part.iterdir() if path.suffix != ".jinja" and path.stat().st_size > 2)
    file = _weights(part) or chance.choice(read)
    data = file.read_bytes()
    _write(file, data[: chance.randrange(1, len(data) - 1)])
    return True


def _changed(folder: Path, part: str, change: Callable[[dict[str, torch.Tensor], list[str]], None]) -> bool:
    file = _weights(folder / part)
    if file is None:
        return False
    tensors = load_file(file)
    change(tensors, sorted(tensors))
    file.unlink()
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata={"format": "pt"})
    return True


def _wider(folder: Path, misfit: Misfit, chance: random.Random, models: Path) -> bool:
    return _changed(folder, misfit.part, lambda tensors, owned: _widened(tensors, owned, chance))


def _lacking(folder: Path, misfit: Misfit, chance: random.Random, models: Path) -> bool:
    return _changed(folder, misfit.part, lambda tensors, owned: _one_less(tensors, owned, chance))


def _foreign(folder: Path, misfit: Misfit, chance: random.Random, models: Path) -> bool:
    """The part of that name of another model, and the index's word for it."""
    part = misfit.part
    others = [one for one in FOLDERS if one is not misfit.model and part in parts_of(models / one)]
    own = parts_of(folder)[part]
    different = [one for one in others if parts_of(models / one)[part] != own] or others
    if not different:
        return False
    other = models / chance.choice(different)
    shutil.rmtree(folder / part)
    shutil.copytree(other / part, folder / part, copy_function=os.link)
    index = json.loads((folder / INDEX).read_text())
    _write(folder / INDEX, json.dumps(index | {part: parts_of(other)[part]}).encode())
    return True


def _write(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def _widened(tensors: dict[str, torch.Tensor], owned: list[str], chance: random.Random) -> None:
    """One tensor of several dimensions twice as wide."""
    name = chance.choice([name for name in owned if tensors[name].ndim > 1 and tensors[name].is_floating_point()])
    tensors[name] = torch.cat([tensors[name]] * 2, dim=chance.randrange(2))


def _one_less(tensors: dict[str, torch.Tensor], owned: list[str], chance: random.Random) -> None:
    del tensors[chance.choice([name for name in owned if not name.endswith(UNREAD)])]


def _none(tensors: dict[str, torch.Tensor], owned: list[str], chance: random.Random) -> None:
    for name in owned:
        del tensors[name]


UNREAD = ("position_ids", "logit_scale", "text_projection")
"""Endings of tensors that a file may lack."""

FOLDER_CHANGES: Mapping[str, Callable[[Path, Misfit, random.Random, Path], bool]] = {
    "gone": _gone,
    "unnamed": _unnamed,
    "cut": _cut,
    "wider": _wider,
    "lacking": _lacking,
    "foreign": _foreign,
}
SINGLE_CHANGES: Mapping[str, Callable[[dict[str, torch.Tensor], list[str], random.Random], None]] = {
    "none": _none,
    "wider": _widened,
    "lacking": _one_less,
}
