"""The families' records: each whole in itself, and the only place that names its family."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelfiles import families
from modelfiles.allowed import COMPONENTS
from modelfiles.families import CONFIGURATIONS, Family
from modelfiles.folders import read_pipeline
from modelfiles.paths import Roots
from protocol.enums import ModelType

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol", "settings", "modelfiles", "broker", "catalog", "worker", "client", "cli", "web")
WORDS = re.compile(r"(?i)sd_?15|sd_?21|sdxl|sd_?3(?!\d)|flux|stablediffusion(?!safetychecker)|qwen_?image|z_?image")
"""What names a family in a text or an identifier."""

SOURCES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
EVERY = [pytest.param(family, id=family.name) for family in families.ALL]


def words_of(path: Path) -> Iterator[str]:
    """Every name and every text of a file, but for what documents it."""
    tree = ast.parse(path.read_text(), filename=str(path))
    documents = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in documents:
                yield text
            case ast.Name(id=word) | ast.Attribute(attr=word) | ast.alias(name=word) | ast.arg(arg=word):
                yield word


@pytest.mark.parametrize("path", [pytest.param(path, id=str(path.relative_to(ROOT))) for path in SOURCES])
def test_a_family_is_named_in_its_own_record_alone(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if name != "protocol/enums.py" and not name.startswith("modelfiles/families/"):
        assert sorted({word for word in words_of(path) if WORDS.search(word)}) == []


@pytest.mark.parametrize("family", EVERY)
def test_the_words_that_are_looked_for_are_those_of_the_records(family: Family) -> None:
    assert all(WORDS.search(name) for name in family.pipelines)
    assert family.type is ModelType.Diffusion or WORDS.search(family.type.value)


@pytest.mark.parametrize("family", EVERY)
def test_a_record_is_whole(family: Family) -> None:
    parts = {part.name for part in family.file_parts}
    assert family.denoiser.part in parts and "vae" in parts
    assert parts <= family.needed | {"text_encoder", "text_encoder_3"}
    assert {"scheduler", "vae", family.denoiser.part} <= family.needed
    assert family.native_side % family.side_multiple == family.greatest_default % family.side_multiple == 0
    assert all(COMPONENTS[pair] is kind for pair, kind in family.classes.items())
    assert len({family.name for family in families.ALL}) == len(families.ALL)
    assert families.named(family.name) is family


@pytest.mark.parametrize("family", [one for one in families.ALL if one.configuration])
def test_a_familys_own_configuration_is_one_of_its_folders(family: Family) -> None:
    folder = CONFIGURATIONS / family.configuration
    assert read_pipeline(folder, Roots([folder]), with_weights=False).family == family.name


def test_a_class_that_no_family_has_is_no_folders() -> None:
    with pytest.raises(LookupError):
        families.of_folder("SomePipeline", {}, [])
