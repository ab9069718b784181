"""A model that is taken out: forgotten with all that was learned of it, its files left alone, its path passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shelf import Shelf, device, residency

from protocol import commands as c
from protocol.enums import Tier
from protocol.errors import ErrorCode, Fault

PROFILE = {"family": "SDXL", "bytes": 100, "load_ms": 1, "step_ms": 1, "peak_bytes": 120, "components": {"unet": 100}}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "models", tmp_path / "data")
    for name in ("one", "two"):
        (shelf.root / f"{name}.vmodel.json").write_text(json.dumps(PROFILE))
    shelf.scan()
    return shelf


def listed(shelf: Shelf) -> list[str]:
    return sorted(shelf.ids())


def test_an_unregistered_model_is_gone_from_lists_searches_and_scans_and_its_file_stays(shelf: Shelf) -> None:
    shelf.catalogue.take_changed()
    reply = shelf.unregister("one")
    path = shelf.root / "one.vmodel.json"
    assert (reply.model_id, reply.file_path, reply.left_out) == ("one", str(path), True)
    assert path.exists()
    assert listed(shelf) == ["two"]
    assert shelf.listed(search_query="one").models == []
    found = shelf.scan()
    assert (found.added, found.updated, found.missing, found.rejected) == ([], [], [], [])
    assert shelf.catalogue.take_changed() == ([], ["one"])
    again = shelf.reopen()
    again.scan()
    assert listed(again) == ["two"]


def test_its_usage_is_forgotten_and_what_was_written_beside_it_is_a_file(shelf: Shelf) -> None:
    shelf.use("one", run_ms=5.0, images=1)
    shelf.use("two", run_ms=5.0, images=1)
    update = c.UpdateMetadata(model_id="one", metadata={"name": "The One"})
    shelf.catalogue.answer(update, "r")
    sidecar = shelf.root / "one.vmodel.json.vrambroker.json"
    assert sidecar.exists()
    shelf.unregister("one")
    assert sidecar.exists()
    back = shelf.register(shelf.root / "one.vmodel.json")
    assert (back.model_id, back.model.name) == ("one", "The One")
    info = shelf.info("one", include_performance=True)
    assert info.usage_stats is not None and info.usage_stats.total_usage_count == 0
    kept = shelf.info("two", include_performance=True)
    assert kept.usage_stats is not None and kept.usage_stats.total_usage_count == 1


def test_a_model_that_comes_back_goes_on_from_its_last_revision(shelf: Shelf) -> None:
    before = shelf.info("one").model.revision
    shelf.unregister("one")
    again = shelf.reopen()
    assert again.register(again.root / "one.vmodel.json").model.revision == before + 1
    again.scan()
    assert listed(again) == ["one", "two"]
    again.unregister("one")
    again.scan()
    assert listed(again) == ["two"]


def test_a_path_with_another_id_stays_in_scans(shelf: Shelf) -> None:
    shelf.register(shelf.root / "one.vmodel.json", model_id="uno")
    reply = shelf.unregister("one")
    assert not reply.left_out and "uno" in reply.message
    assert shelf.scan().added == []
    assert listed(shelf) == ["two", "uno"]
    assert shelf.unregister("uno").left_out
    assert shelf.scan().added == []
    assert listed(shelf) == ["two"]


@pytest.mark.parametrize("tier", [Tier.VRAM, Tier.RAM])
def test_what_a_device_holds_is_in_use_and_the_devices_are_named(shelf: Shelf, tier: Tier) -> None:
    shelf.catalogue.see_devices([device("cpu:0"), device("cpu:1", residency("one", tier))])
    with pytest.raises(Fault) as caught:
        shelf.unregister("one")
    info = caught.value.info
    assert info.code is ErrorCode.MODEL_IN_USE
    assert info.details["device_ids"] == ["cpu:1"]
    assert info.recovery[0].action == "unload_model"
    assert listed(shelf) == ["one", "two"]
    shelf.catalogue.see_devices([device("cpu:1", residency("one", Tier.DISK))])
    assert shelf.unregister("one").left_out


def test_an_unknown_model_is_not_found_and_one_that_was_taken_out_neither(shelf: Shelf) -> None:
    shelf.unregister("one")
    for model_id in ("on", "one"):
        with pytest.raises(Fault) as caught:
            shelf.unregister(model_id)
        assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
    assert listed(shelf) == ["two"]


def test_a_database_that_takes_nothing_changes_nothing(shelf: Shelf) -> None:
    shelf.store._db.execute("PRAGMA query_only = ON")
    with pytest.raises(Fault) as caught:
        shelf.unregister("one")
    assert caught.value.code is ErrorCode.INTERNAL_ERROR and caught.value.info.retryable
    assert listed(shelf) == ["one", "two"]
    shelf.store._db.execute("PRAGMA query_only = OFF")
    assert shelf.unregister("one").left_out


def test_the_sidecar_in_the_data_folder_goes_with_the_model(shelf: Shelf) -> None:
    spare = shelf.data / "sidecars" / "one.vrambroker.json"
    spare.parent.mkdir()
    spare.write_text("{}")
    shelf.unregister("one")
    assert not spare.exists()


def test_usage_that_was_not_on_disk_yet_does_not_come_back(shelf: Shelf) -> None:
    shelf.use("one", run_ms=5.0)
    shelf.unregister("one")
    shelf.catalogue.commit()
    shelf.register(shelf.root / "one.vmodel.json")
    info = shelf.info("one", include_performance=True)
    assert info.usage_stats is not None and info.usage_stats.total_usage_count == 0
