"""What other programs keep beside a model: each format, which word stands, and files that are not what they seem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from model_bytes import SD15_NAMES, json_file, pipeline_folder, tensor_file
from shelf import Shelf

from catalog.notes import LIMIT_BYTES, LONGEST_LINE, MOST_FREQUENT, MOST_TAGS, MOST_WORDS
from protocol import commands as c

CIVITAI = {
    "id": 12,
    "modelId": 7,
    "trainedWords": ["mychar", " blue hat "],
    "baseModel": "SD 1.5",
    "description": "A character",
    "model": {"name": "My Character", "tags": ["character", "hat"]},
    "creator": {"username": "Ada"},
}
MATRIX = {
    "ModelId": 7,
    "ModelName": "My Character",
    "ModelDescription": "A character",
    "Tags": ["character", "hat"],
    "TrainedWords": ["mychar", "blue hat"],
    "BaseModel": "SD 1.5",
}
SWARM = {
    "modelspec.title": "My Character",
    "description": "A character",
    "author": "Ada",
    "license": "MIT",
    "tags": "character, hat",
    "trigger_phrase": "mychar, blue hat",
}
WEBUI = {"description": "A character", "activation text": "mychar, blue hat", "sd version": "SD1"}
FORMATS = {".civitai.info": CIVITAI, ".cm-info.json": MATRIX, ".swarm.json": SWARM, ".json": WEBUI}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "models"
    tensor_file(root / "char.safetensors", SD15_NAMES)
    pipeline_folder(root / "sd")
    return Shelf(root, tmp_path / "data")


def model(shelf: Shelf, model_id: str = "char") -> Any:
    shelf.scan()
    return shelf.info(model_id).model


@pytest.mark.parametrize("ending", FORMATS)
def test_each_programs_sidecar_is_read(shelf: Shelf, ending: str) -> None:
    json_file(shelf.root / f"char{ending}", FORMATS[ending])
    found = model(shelf)
    assert found.description == "A character"
    assert found.metadata.custom["trigger_words"] == ["mychar", "blue hat"]
    if ending != ".json":
        assert found.name == "My Character" and found.metadata.tags == ["character", "hat"]
    if ending in (".civitai.info", ".swarm.json"):
        assert found.metadata.author == "Ada"
    if ending != ".swarm.json":
        assert found.metadata.custom["base_model"].startswith("SD")
    if ending == ".civitai.info":
        assert found.metadata.source_url == "https://civitai.com/models/7?modelVersionId=12"
    if ending == ".swarm.json":
        assert found.metadata.license == "MIT"


def test_a_folders_sidecar_lies_beside_it(shelf: Shelf) -> None:
    json_file(shelf.root / "sd.civitai.info", CIVITAI)
    assert model(shelf, "sd").name == "My Character"


def test_the_header_stands_above_a_sidecar_and_a_client_above_both(shelf: Shelf) -> None:
    stated = {"modelspec.title": "Stated", "modelspec.tags": "own", "modelspec.author": "Zoë"}
    tensor_file(shelf.root / "char.safetensors", SD15_NAMES, stated)
    json_file(shelf.root / "char.civitai.info", CIVITAI)
    found = model(shelf)
    assert (found.name, found.metadata.tags, found.metadata.author) == ("Stated", ["own"], "Zoë")
    assert found.description == "A character"
    written = {"name": "Mine", "tags": [], "description": "", "custom": {"base_model": "SDXL"}}
    shelf.catalogue.answer(c.UpdateMetadata(model_id="char", metadata=written), "r")
    found = model(shelf)
    assert (found.name, found.metadata.tags, found.description) == ("Mine", [], "")
    assert found.metadata.custom["base_model"] == "SDXL"


@pytest.mark.parametrize("ending", [".preview.png", ".png", ".jpeg", ".webp"])
def test_a_preview_picture_is_named(shelf: Shelf, ending: str) -> None:
    (shelf.root / f"char{ending}").write_bytes(b"x")
    assert model(shelf).metadata.custom["preview_path"] == str(shelf.root / f"char{ending}")


def test_a_sidecar_that_comes_changes_or_goes_is_noticed_and_one_touched_is_no_change(shelf: Shelf) -> None:
    shelf.scan()
    path = shelf.root / "char.civitai.info"
    json_file(path, CIVITAI)
    assert shelf.scan().updated == ["char"] and shelf.info("char").model.name == "My Character"
    assert shelf.scan().updated == []
    json_file(path, {**CIVITAI, "model": {"name": "Renamed"}})
    assert shelf.scan().updated == ["char"] and shelf.info("char").model.name == "Renamed"
    revision = shelf.info("char").model.revision
    path.touch()
    assert shelf.scan().updated == [] and shelf.info("char").model.revision == revision
    path.unlink()
    assert shelf.scan().updated == ["char"] and shelf.info("char").model.name == "char"


def test_a_trainers_own_keys_are_read(shelf: Shelf) -> None:
    counts = {"10_char": {f"w{index}": 100 - index for index in range(20)}, "5_more": {"w3": 500}}
    header = {
        "ss_base_model_version": "sdxl_base_v1-0",
        "ss_tag_frequency": json.dumps(counts),
        "ss_learning_rate": "0.0001",
        "ss_network_dim": "32",
        "ss_optimizer": "AdamW8bit",
        "ss_seed": "None",
        "ss_resolution": "(512, 512)",
    }
    tensor_file(shelf.root / "char.safetensors", SD15_NAMES, header)
    metadata = model(shelf).metadata
    assert metadata.custom["base_model"] == "sdxl_base_v1-0"
    words = metadata.custom["trigger_words"]
    assert words[:2] == ["w3", "w0"] and len(words) == MOST_FREQUENT
    assert metadata.training_parameters == {
        "learning_rate": 0.0001,
        "network_dim": 32,
        "optimizer": "AdamW8bit",
        "resolution": "(512, 512)",
    }


BAD: list[object] = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"a":' * 5000,
    b" " * (LIMIT_BYTES + 1),
    dict.fromkeys(CIVITAI, 7),
    {key: [{}] for key in CIVITAI},
    dict.fromkeys(CIVITAI),
    {**CIVITAI, "model": {"name": "x" * 100_000, "tags": "x" * 100_000}, "trainedWords": ["y" * 100_000] * 1000},
]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("content", BAD, ids=range(len(BAD)))
def test_a_sidecar_of_garbage_is_left_out_and_costs_nobody_anything(shelf: Shelf, ending: str, content: object) -> None:
    path = shelf.root / f"char{ending}"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    found = model(shelf)
    assert len(found.name) <= LONGEST_LINE and shelf.scan().updated == []
    assert sorted(shelf.ids()) == ["char", "sd"]


@pytest.mark.parametrize("frequency", ["{", "[]", '{"a": 1}', '{"a": {"w": "x"}}', '{"a": {"w": -1}}', "[" * 5000])
def test_a_trainers_count_of_garbage_names_no_words(shelf: Shelf, frequency: str) -> None:
    tensor_file(shelf.root / "char.safetensors", SD15_NAMES, {"ss_tag_frequency": frequency})
    assert "trigger_words" not in model(shelf).metadata.custom


def test_a_sidecar_that_leads_out_of_the_roots_is_not_read(shelf: Shelf, tmp_path: Path) -> None:
    json_file(tmp_path / "secret.json", CIVITAI)
    (shelf.root / "char.json").symlink_to(tmp_path / "secret.json")
    found = model(shelf)
    assert found.name == "char" and found.metadata.custom == {}
    assert shelf.scan().updated == []


def test_tags_and_trigger_words_have_their_own_limits(shelf: Shelf) -> None:
    many = [f"w{index}" for index in range(200)]
    json_file(shelf.root / "char.cm-info.json", {**MATRIX, "Tags": many, "TrainedWords": many})
    metadata = model(shelf).metadata
    assert metadata.tags == many[:MOST_TAGS] and metadata.custom["trigger_words"] == many[:MOST_WORDS]
