"""Whether a single file has every tensor that the project's own configuration of its family asks for.

Decides by tables of names and shapes (`configurations/*/tensors.tsv`), so that a file that lacks one is refused before
a class is built for it. Knows the original layout alone: a part that has other names is the loader's to compare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from modelfiles import families
from modelfiles.families import CONFIGURATIONS
from modelfiles.headers import read_header
from modelfiles.jsonfile import corrupted
from modelfiles.model import Kind, ModelFile, Part
from protocol.errors import ErrorCode, Fault

ASKED = "tensors.tsv"
"""In a configuration's folder: part, name and shape of each tensor, a line each."""

MOST_LACKING = 0.5
"""Of a part's tensors: a file that lacks more of them has another layout."""

MOST_NAMED = 20

Asked = Mapping[str, tuple[int, ...]]
"""Names of tensors and their shapes."""


def check_complete(file: ModelFile, configured: bool) -> None:
    """Raise Fault MODEL_CORRUPTED for a tensor that is missing, MODEL_LOADING_FAILED for one of another shape.

    `configured`: the file has a configuration of its own, which alone says what it must hold.
    """
    family = families.named(file.family)
    if file.kind is not Kind.SINGLE or configured or family is None or not family.configuration:
        return
    header = read_header(Path(file.path))
    held = {tensor.name: tensor.shape for tensor in header.tensors}
    tables = asked_by(family.configuration)
    name, seen = Path(file.path).name, family.denoiser.originals if file.in_channels else ()
    parts = [(part, tables[part.name]) for part in file.parts if part.name in tables]
    known = [(part, asked) for part, asked in parts if len(held.keys() & asked.keys()) >= MOST_LACKING * len(asked)]
    for part, asked in known:
        _check_shapes(name, part, {one: shape for one, shape in asked.items() if one not in seen}, held)
    for part, asked in known:
        _check_names(name, part, asked, held)


def _check_shapes(name: str, part: Part, asked: Asked, held: Asked) -> None:
    """What has other shapes is another model, whatever it lacks."""
    for one, shape in asked.items():
        if one in held and _squeezed(held[one]) != _squeezed(shape):
            text = f"{name}: its {part.name} has {one} of {list(held[one])}, where its family has {list(shape)}"
            details = {"part": part.name, "tensor": one, "found": list(held[one]), "expected": list(shape)}
            hint = f"put its own configuration in a folder {Path(name).stem} beside it, or name it in config_path"
            raise Fault(ErrorCode.MODEL_LOADING_FAILED, f"{text}: {hint}", details=details)


def _check_names(name: str, part: Part, asked: Asked, held: Asked) -> None:
    missing = [one for one in asked if one not in held]
    if missing:
        raise lacks(name, part.name, missing)


def lacks(name: str, part: str, missing: Sequence[str]) -> Fault:
    """MODEL_CORRUPTED for a file without some of a part's tensors."""
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    text = f"{name} lacks the tensor {missing[0]}{more} of its {part}"
    return corrupted(text, part=part, tensor=missing[0], missing=list(missing[:MOST_NAMED]))


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the sides of 1 at its end: linear layers are convolutions of one pixel in some files."""
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


@cache
def asked_by(configuration: str) -> dict[str, dict[str, tuple[int, ...]]]:
    """What a configuration of the project's own asks for, by part."""
    return read((CONFIGURATIONS / configuration / ASKED).read_text("utf-8").splitlines())


def read(lines: Iterable[str]) -> dict[str, dict[str, tuple[int, ...]]]:
    """By part, what lines of such a table say."""
    found: dict[str, dict[str, tuple[int, ...]]] = {}
    for part, name, sides in (line.split("\t") for line in lines):
        found.setdefault(part, {})[name] = tuple(int(side) for side in sides.split(",") if side)
    return found


def written(parts: Mapping[str, Asked]) -> str:
    """The inverse of `read`."""
    rows = ((part, name, shape) for part, asked in parts.items() for name, shape in asked.items())
    return "".join(f"{part}\t{name}\t{','.join(map(str, shape))}\n" for part, name, shape in rows)
