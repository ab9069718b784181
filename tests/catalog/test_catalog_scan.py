from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file
from msgspec import UNSET
from shelf import Shelf

from protocol import commands as c
from protocol.enums import HashDepth, ModelStatus, ModelType
from protocol.errors import ErrorCode, Fault


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "models"
    pipeline_folder(root / "sd")
    tensor_file(root / "deep" / "one.safetensors", SD15_NAMES)
    json_file(root / "v.vmodel.json", PROFILE)
    return Shelf(root, tmp_path / "data")


def test_scan_finds_folders_files_and_profiles_once(shelf: Shelf) -> None:
    found = shelf.scan()
    assert (found.added, found.updated, found.missing, found.rejected) == (["one", "sd", "v"], [], [], [])
    found = shelf.scan()
    assert (found.added, found.updated, found.missing, found.rejected) == ([], [], [], [])


def test_changed_file_is_updated_under_a_higher_revision(shelf: Shelf) -> None:
    shelf.scan(HashDepth.FULL)
    before = shelf.info("one").model
    tensor_file(shelf.root / "deep/one.safetensors", [*SD15_NAMES, "extra"])
    assert shelf.scan().updated == ["one"]
    after = shelf.info("one").model
    assert after.revision > before.revision
    assert after.size_bytes > before.size_bytes
    assert after.checksum == ""


def test_file_replaced_by_one_of_equal_size_is_updated(shelf: Shelf) -> None:
    shelf.scan()
    path = shelf.root / "deep/one.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] = 1
    path.write_bytes(data)
    os.utime(path, ns=(1, 1))
    assert shelf.scan().updated == ["one"]


def test_missing_model_is_named_once_and_stays_listed(shelf: Shelf) -> None:
    shelf.scan()
    shutil.rmtree(shelf.root / "sd")
    assert shelf.scan().missing == ["sd"]
    assert shelf.scan().missing == []
    assert shelf.info("sd").model.status is ModelStatus.Missing
    pipeline_folder(shelf.root / "sd")
    assert shelf.scan().updated == ["sd"]
    assert shelf.info("sd").model.status is ModelStatus.Available


def test_folder_that_lost_its_weights_is_missing_and_one_without_any_is_nothing(shelf: Shelf) -> None:
    shelf.scan()
    for weights in (shelf.root / "sd").rglob("*.safetensors"):
        weights.unlink()
    assert shelf.scan().missing == ["sd"]
    json_file(shelf.root / "config-only/model_index.json", {"_class_name": "StableDiffusionPipeline"})
    found = shelf.scan()
    assert (found.added, found.rejected) == ([], [])


def test_refused_files_are_named_with_code_and_reason(shelf: Shelf, tmp_path: Path) -> None:
    (shelf.root / "bad.safetensors").write_bytes(b"x" * 20)
    (shelf.root / "old.ckpt").write_bytes(b"x")
    (tmp_path / "outside.safetensors").write_bytes(b"x")
    (shelf.root / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    evil = pipeline_folder(shelf.root / "evil")
    (evil / "pipeline.py").write_text("x")
    found = {Path(item.path).name: item.code for item in shelf.scan().rejected}
    assert found == {
        "bad.safetensors": ErrorCode.MODEL_CORRUPTED,
        "old.ckpt": ErrorCode.UNSAFE_MODEL,
        "link.safetensors": ErrorCode.UNSAFE_MODEL,
        "evil": ErrorCode.UNSAFE_MODEL,
    }
    assert sorted(shelf.ids()) == ["one", "sd", "v"]


def test_known_model_that_turns_bad_is_updated_and_refused(shelf: Shelf) -> None:
    shelf.scan()
    (shelf.root / "deep/one.safetensors").write_bytes(b"x" * 20)
    found = shelf.scan()
    assert (found.updated, [item.code for item in found.rejected]) == (["one"], [ErrorCode.MODEL_CORRUPTED])
    assert shelf.info("one").model.status is ModelStatus.Corrupted
    again = shelf.scan()
    assert (again.updated, len(again.rejected)) == ([], 1)


def test_hash_depth_decides_the_checksum(shelf: Shelf) -> None:
    shelf.scan(HashDepth.NONE)
    assert shelf.info("one").model.checksum == ""
    assert "model.checksum" in shelf.info("one").not_measured
    shelf.scan(HashDepth.FAST)
    assert shelf.info("one").model.checksum.startswith("fast:")
    shelf.scan(HashDepth.FULL)
    expected = hashlib.sha256((shelf.root / "deep/one.safetensors").read_bytes()).hexdigest()
    assert shelf.info("one").model.checksum == expected
    assert len(shelf.info("sd").model.checksum) == 64
    shelf.scan(HashDepth.FAST)
    assert shelf.info("one").model.checksum == expected


def test_scan_keeps_to_the_roots_asked_for(shelf: Shelf) -> None:
    assert shelf.scan(HashDepth.NONE, str(shelf.root / "deep")).added == ["one"]
    shutil.rmtree(shelf.root / "deep")
    pipeline_folder(shelf.root / "other/x")
    found = shelf.scan(HashDepth.NONE, str(shelf.root / "other"))
    assert (found.added, found.missing) == (["x"], [])


@pytest.mark.parametrize("root", ["/", "/etc", "..", "none", "v.vmodel.json"])
def test_root_outside_the_configured_ones_or_no_folder_is_an_invalid_argument(shelf: Shelf, root: str) -> None:
    with pytest.raises(Fault) as caught:
        shelf.scan(HashDepth.NONE, root)
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert "roots[0]" in caught.value.info.message


def test_file_that_was_registered_gets_no_second_id(shelf: Shelf) -> None:
    shelf.register(shelf.root / "deep/one.safetensors", model_id="mine")
    shelf.register(shelf.root / "sd/vae", model_id="part")
    assert shelf.scan().added == ["sd", "v"]
    assert shelf.scan().missing == []


def test_names_that_collide_get_ids_of_their_own(shelf: Shelf) -> None:
    tensor_file(shelf.root / "sd.safetensors", SD15_NAMES)
    tensor_file(shelf.root / "é è.safetensors", SD15_NAMES)
    tensor_file(shelf.root / "deep-one.safetensors", SD15_NAMES)
    added = shelf.scan().added
    assert len(set(added)) == 6
    assert {"sd", "one", "e-e"} <= set(added)


def test_links_within_the_roots_are_followed_once(shelf: Shelf) -> None:
    (shelf.root / "again").symlink_to(shelf.root)
    (shelf.root / "copy").symlink_to(shelf.root / "sd")
    found = shelf.scan()
    assert len(found.added) == 3
    assert found.rejected == []


def test_catalogue_is_the_same_after_a_restart(shelf: Shelf) -> None:
    shelf.scan(HashDepth.FAST)
    shelf.use("sd", run_ms=10.0, images=1)
    before = shelf.info("sd", include_performance=True)
    after = shelf.reopen().info("sd", include_performance=True)
    assert after.model == before.model
    assert after.model.performance.total_inferences == 1


def test_configuration_folder_that_comes_later_is_noticed(shelf: Shelf) -> None:
    shelf.scan()
    pipeline_folder(shelf.root / "deep/one")
    found = shelf.scan()
    assert (found.added, found.updated) == (["deep-one"], ["one"])
    refs = {ref.model_id: ref for ref in shelf.catalogue.refs()}
    assert refs["one"].config_path == str(shelf.root / "deep/one")


@pytest.mark.parametrize("ending", [".part", ".aria2", ".crdownload", ".incomplete"])
def test_an_unfinished_download_is_said_as_such_and_not_offered(shelf: Shelf, ending: str) -> None:
    shelf.scan()
    tensor_file(shelf.root / f"half.safetensors{ending}", ["w"])
    found = shelf.scan()
    names = [item.path.rpartition("/")[2] for item in found.rejected]
    assert (found.added, names) == ([], [f"half.safetensors{ending}"])
    assert found.rejected[0].code is ErrorCode.MODEL_CORRUPTED and "unfinished download" in found.rejected[0].reason
    tensor_file(shelf.root / "half.safetensors", ["w"])
    both = shelf.scan()
    assert both.added == [] and len(both.rejected) == 2
    (shelf.root / f"half.safetensors{ending}").unlink()
    assert shelf.scan().added == ["half"]


def test_notes_of_other_programs_are_no_downloads(shelf: Shelf) -> None:
    shelf.scan()
    for name in ("readme.part", "notes.incomplete", "x.part"):
        (shelf.root / name).write_text("x")
    assert shelf.scan().rejected == []


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"])
def test_a_part_folder_of_a_variant_alone_is_one_model(shelf: Shelf, name: str) -> None:
    shelf.scan()
    is_vae = name.startswith("diffusion")
    config = {"_class_name": "AutoencoderKL"} if is_vae else {"architectures": ["CLIPTextModel"]}
    json_file(shelf.root / "part/config.json", config)
    tensor_file(shelf.root / "part" / name, ["decoder.conv_in.weight"])
    assert shelf.scan().added == ["part"]
    assert shelf.info("part").model.type is (ModelType.VAE if is_vae else ModelType.TextEncoder)


def test_the_hubs_cache_is_listed_by_the_names_of_its_links(shelf: Shelf) -> None:
    shelf.scan()
    tensor_file(shelf.root / "hub/blobs/0123abcd", SD15_NAMES)
    link = shelf.root / "hub/snapshots/rev/style.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to("../../blobs/0123abcd")
    found = shelf.scan()
    assert (found.added, found.rejected) == (["style"], [])
    assert shelf.info(found.added[0]).model.file_path == str(link)
    assert shelf.scan().updated == [] and shelf.register(link).model_id == found.added[0]


def refused(shelf: Shelf) -> dict[str, ErrorCode]:
    """What is known of refused files, by the id that each would have."""
    files = shelf.listed(rejected=True).rejected
    assert files is not UNSET
    return {file.model_id: file.code for file in files}


def test_a_refused_file_is_known_by_its_id_until_it_is_mended(shelf: Shelf) -> None:
    whole = (shelf.root / "deep/one.safetensors").read_bytes()
    (shelf.root / "cut.safetensors").write_bytes(whole[:-5])
    (shelf.root / "old.ckpt").write_bytes(b"x")
    (shelf.root / "half.safetensors.part").write_bytes(b"x")
    shelf.scan()
    assert refused(shelf) == {
        "cut": ErrorCode.MODEL_CORRUPTED,
        "old": ErrorCode.UNSAFE_MODEL,
        "half": ErrorCode.MODEL_CORRUPTED,
    }
    with pytest.raises(Fault, match=r"'cut': a file of that name was found and refused: cut\.safe") as fault:
        shelf.info("cut")
    assert fault.value.code is ErrorCode.MODEL_CORRUPTED
    assert fault.value.info.details["path"] == str(shelf.root / "cut.safetensors")
    (shelf.root / "cut.safetensors").write_bytes(whole)
    (shelf.root / "old.ckpt").unlink()
    shelf.scan()
    assert refused(shelf) == {"half": ErrorCode.MODEL_CORRUPTED}
    assert shelf.info("cut").model.id == "cut"
    assert shelf.listed().rejected is UNSET


def test_a_scan_of_one_folder_keeps_what_is_known_of_the_others(shelf: Shelf) -> None:
    (shelf.root / "a.ckpt").write_bytes(b"x")
    (shelf.root / "deep" / "b.ckpt").write_bytes(b"x")
    shelf.scan()
    (shelf.root / "a.ckpt").unlink()
    (shelf.root / "deep" / "b.ckpt").unlink()
    shelf.scan(HashDepth.NONE, "deep")
    assert refused(shelf) == {"a": ErrorCode.UNSAFE_MODEL}
    (shelf.root / "deep" / "c.ckpt").write_bytes(b"x")
    given_up = shelf.catalogue.scan_models(c.ScanModels())
    for _, _ in zip(given_up.steps(), range(3), strict=False):
        pass
    shelf.catalogue.finish_scan(given_up)
    assert "a" in refused(shelf)


def test_a_refused_file_beside_a_model_of_its_name_has_another_id(shelf: Shelf) -> None:
    (shelf.root / "one.ckpt").write_bytes(b"x")
    (shelf.root / "deep" / "sd.ckpt").write_bytes(b"x")
    shelf.scan()
    assert set(refused(shelf)).isdisjoint({"one", "sd"}) and len(refused(shelf)) == 2
    assert shelf.info("sd").model.id == "sd"


def test_a_known_model_that_turned_bad_is_shown_by_its_entry(shelf: Shelf) -> None:
    shelf.scan()
    (shelf.root / "deep/one.safetensors").write_bytes(b"x" * 20)
    shelf.scan()
    assert refused(shelf) == {}
    assert shelf.info("one").model.status is ModelStatus.Corrupted
