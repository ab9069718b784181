"""Ids that people can type: the name of the file or folder, in Latin letters, unique, and the same for ever."""

from __future__ import annotations

import re
import shutil
from pathlib import Path, PurePath

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file
from shelf import Shelf

from catalog.ids import MODEL_ID, id_from
from protocol.enums import ModelStatus


def id_of(path: str, *taken: str) -> str:
    return id_from(PurePath(path), "root", taken.__contains__)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("model.safetensors", "model"),
        ("sdxl/base/Model_v1.5.safetensors", "Model_v1.5"),
        ("Model.SafeTensors", "Model"),
        ("fast/turbo.vmodel.json", "turbo"),
        ("sd/anime", "anime"),
        ("v1.5", "v1.5"),
        ("", "root"),
        ("a b (c).safetensors", "a-b-c"),
        ("Ünïcode ß ø.safetensors", "Unicode-ss-o"),
        ("写实模型.safetensors", "XieShiMoXing"),
        ("Русская модель.safetensors", "Russkaya-model"),
        ("モデル.safetensors", "moderu"),
        ("---.safetensors", "model"),
        ("\udcff\udcfe.safetensors", "model"),
        ("models--org--name/snapshots/0123abcd", "name"),
        ("hub/models--org--name/snapshots/0123abcd/unet.safetensors", "unet"),
        ("models--org--na--me/snapshots/main", "me"),
    ],
)
def test_an_id_is_the_stem_of_the_file_or_the_name_of_the_folder(path: str, expected: str) -> None:
    assert id_of(path) == expected
    assert MODEL_ID.fullmatch(expected)


def test_a_taken_one_gets_the_folders_above_it_and_then_a_digest() -> None:
    path = "sdxl/fast/model.safetensors"
    assert id_of(path, "model") == "fast-model"
    assert id_of(path, "model", "fast-model") == "sdxl-fast-model"
    last = id_of(path, "model", "fast-model", "sdxl-fast-model")
    assert re.fullmatch(r"model-[0-9a-f]{8}", last)
    assert id_of(path, "model", "fast-model", "sdxl-fast-model") == last
    assert id_of("models--org--name/snapshots/1/m.safetensors", "m") == "name-m"


@pytest.mark.parametrize("length", [127, 128, 129, 400])
def test_an_id_is_at_most_as_long_as_the_wire_takes(length: int) -> None:
    found = id_of("x" * length + ".safetensors")
    assert MODEL_ID.fullmatch(found)
    assert (found == "x" * length) == (length <= 128)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    for folder in ("a", "b"):
        tensor_file(shelf.root / folder / "model.safetensors", SD15_NAMES, {"modelspec.title": folder})
    shelf.scan()
    return shelf


def ids(shelf: Shelf) -> dict[str, str]:
    return {Path(model.file_path).parent.name: model.id for model in shelf.listed().models}


def test_ids_outlive_restarts_rescans_and_a_move_there_and_back(shelf: Shelf) -> None:
    before = ids(shelf)
    assert set(before.values()) == {"model", "b-model"}
    again = shelf.reopen()
    again.scan()
    assert ids(again) == before
    (again.root / "a").rename(again.root / "elsewhere")
    found = again.scan()
    assert found.missing == [before["a"]] and found.added == ["elsewhere-model"]
    (again.root / "elsewhere").rename(again.root / "a")
    again.scan()
    assert {folder: ids(again)[folder] for folder in before} == before


def test_a_catalogue_begun_anew_gives_back_the_ids_that_sidecars_name(shelf: Shelf) -> None:
    shelf.register(shelf.root / "a/model.safetensors", model_id="mine")
    shelf.unregister("model")
    shelf.update("mine", {"name": "Mine"})
    shelf.store.close()
    shutil.rmtree(shelf.data)
    again = Shelf(shelf.root, shelf.data)
    assert set(again.scan().added) == {"mine", "model"}
    assert again.info("mine").model.name == "Mine"


@pytest.mark.parametrize("model_id", ["../x", "", "-x", "b-model", "x" * 129])
def test_a_sidecar_names_no_id_that_is_none_or_taken(shelf: Shelf, model_id: str) -> None:
    tensor_file(shelf.root / "c" / "third.safetensors", SD15_NAMES)
    content = {"format": 1, "model_id": model_id, "revision": 1, "written_at": "2025-01-01T00:00:00Z", "written": {}}
    json_file(shelf.root / "c" / "third.safetensors.vrambroker.json", content)
    assert shelf.scan().added == ["third"]


def test_an_id_that_was_unregistered_is_its_paths_alone(shelf: Shelf) -> None:
    path = shelf.root / "a/model.safetensors"
    shelf.unregister("model")
    shelf.register(shelf.root / "b/model.safetensors")
    tensor_file(shelf.root / "model.safetensors", SD15_NAMES)
    (added,) = shelf.scan().added
    assert re.fullmatch(r"model-[0-9a-f]{8}", added)
    assert shelf.register(path).model_id == "model"


def test_an_unplugged_root_loses_nothing_and_its_return_brings_all_back(shelf: Shelf) -> None:
    pipeline_folder(shelf.root / "sd")
    json_file(shelf.root / "v.vmodel.json", PROFILE)
    shelf.scan()
    shelf.update("sd", {"name": "Kept", "rating": 5})
    shelf.use("sd", run_ms=5.0)
    before = {model.id: model.file_path for model in shelf.listed().models}
    away = shelf.root.with_name("unplugged")
    shelf.root.rename(away)
    shelf.root.mkdir()
    again = shelf.reopen()
    assert set(again.scan().missing) == set(before)
    assert {model.status for model in again.listed().models} == {ModelStatus.Missing}
    assert again.info("sd").model.name == "Kept"
    shelf.root.rmdir()
    away.rename(shelf.root)
    back = again.reopen()
    found = back.scan()
    assert (set(found.updated), found.added, found.missing) == (set(before), [], [])
    assert {model.id: model.file_path for model in back.listed().models} == before
    info = back.info("sd", include_performance=True)
    assert info.usage_stats is not None
    assert (info.model.name, info.usage_stats.user_rating, info.usage_stats.total_usage_count) == ("Kept", 5, 1)


def test_a_root_that_is_not_there_at_all_is_missing_models_and_no_fault(shelf: Shelf) -> None:
    away = shelf.root.with_name("unplugged")
    shelf.root.rename(away)
    assert set(shelf.scan().missing) == {"model", "b-model"}
    away.rename(shelf.root)
    assert set(shelf.scan().updated) == {"model", "b-model"}
