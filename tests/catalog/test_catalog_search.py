"""What a search finds, in which order, and all that its reply says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, tensor_file
from shelf import Shelf, device, residency

from catalog.search import BY_HASH, HIGHLIGHT_CHARS
from catalog.words import stem, typos, words
from protocol import commands as c
from protocol import replies as r
from protocol.enums import DeviceType, HashDepth, ModelSearchField, ModelSortBy, ModelType, SortDirection

EVERY = list(ModelSearchField)
SKIES = {
    "modelspec.title": "Élan of Night Skies",
    "modelspec.description": "Paints landscapes at night, with stars",
    "modelspec.tags": "Night, sky, stars",
    "modelspec.author": "Zoë Quinn",
}
PAINT = {
    "modelspec.title": "Painter",
    "modelspec.description": "Oil painting, not photographs",
    "modelspec.tags": "oil, night",
    "modelspec.author": "Ada",
}
LORA = ["x.lora_down.weight", "x.lora_up.weight"]


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "models"
    tensor_file(root / "elan_v2.safetensors", SD15_NAMES, SKIES)
    tensor_file(root / "painter.safetensors", LORA, PAINT)
    json_file(root / "virtual-one.vmodel.json", PROFILE)
    made = Shelf(root, tmp_path / "data")
    made.scan()
    return made


def search(shelf: Shelf, query: str = "", fields: list[ModelSearchField] | None = None, **more: Any) -> Any:
    reply = shelf.catalogue.answer(c.SearchModels(query=query, search_fields=fields or EVERY, **more), "r")
    assert isinstance(reply, r.SearchModelsReply)
    return reply


def ids(shelf: Shelf, query: str = "", fields: list[ModelSearchField] | None = None, **more: Any) -> list[str]:
    return [found.model.id for found in search(shelf, query, fields, **more).results]


def test_an_empty_query_finds_all_by_name(shelf: Shelf) -> None:
    for query in ("", "   "):
        assert ids(shelf, query) == ["elan_v2", "painter", "virtual-one"]
    assert ids(shelf, "!!!") == []


FINDS: list[tuple[str, list[str]]] = [
    ("elan", ["elan_v2"]),
    ("ÉLAN", ["elan_v2"]),
    ("zoe", ["elan_v2"]),
    ("nig", ["elan_v2", "painter"]),
    ("night oil", ["painter"]),
    ("oil  NIGHT!", ["painter"]),
    ("landscape", ["elan_v2"]),
    ("landscaping", ["elan_v2"]),
    ("skies", ["elan_v2"]),
    ("star", ["elan_v2"]),
    ("photograph", ["painter"]),
    ("paintings", ["painter", "elan_v2"]),
    ("landscpae", ["elan_v2"]),
    ("lanscape", ["elan_v2"]),
    ("landsscape", ["elan_v2"]),
    ("lendscape", ["elan_v2"]),
    ("lnadscpae", []),
    ("okl", []),
    ("xil", []),
    ("nothing-at-all", []),
    ("elan_v2", ["elan_v2"]),
    ("v2", ["elan_v2"]),
    ("virtual", ["virtual-one"]),
    ('"elan"', ["elan_v2"]),
    ("elan*", ["elan_v2"]),
    ("name:elan", []),
    ("elan OR painter", []),
    ("NEAR(elan)", []),
    ("'; DROP TABLE texts;--", []),
    ("\x00elan", ["elan_v2"]),
]


@pytest.mark.parametrize(("query", "found"), FINDS)
def test_words_are_found_by_beginning_ending_and_one_typo_and_syntax_is_only_text(
    shelf: Shelf, query: str, found: list[str]
) -> None:
    assert ids(shelf, query) == found


@pytest.mark.parametrize(
    ("field", "query", "found"),
    [
        (ModelSearchField.Name, "elan", ["elan_v2"]),
        (ModelSearchField.Name, "landscapes", []),
        (ModelSearchField.Description, "landscapes", ["elan_v2"]),
        (ModelSearchField.Tags, "oil", ["painter"]),
        (ModelSearchField.Tags, "elan", []),
        (ModelSearchField.Author, "ada", ["painter"]),
        (ModelSearchField.Version, "ada", []),
    ],
)
def test_a_search_looks_into_the_chosen_fields_alone(
    shelf: Shelf, field: ModelSearchField, query: str, found: list[str]
) -> None:
    assert ids(shelf, query, [field]) == found


def test_a_version_that_was_written_is_found(shelf: Shelf) -> None:
    shelf.catalogue.answer(c.UpdateMetadata(model_id="painter", metadata={"version": "beta-7"}), "r")
    assert ids(shelf, "beta", [ModelSearchField.Version]) == ["painter"]


def test_what_changes_is_found_under_its_new_words_alone(shelf: Shelf) -> None:
    shelf.catalogue.answer(c.UpdateMetadata(model_id="painter", metadata={"name": "Sculptor"}), "r")
    assert ids(shelf, "sculptor") == ["painter"] and ids(shelf, "sculptor", [ModelSearchField.Tags]) == []
    assert ids(shelf, "painter", [ModelSearchField.Name]) == ["painter"]  # it is its id
    tensor_file(shelf.root / "new.safetensors", SD15_NAMES, {"modelspec.title": "Sculptor too"})
    shelf.scan()
    assert set(ids(shelf, "sculptor")) == {"new", "painter"}


def test_the_name_itself_comes_before_what_begins_so_and_before_what_mentions_it(shelf: Shelf) -> None:
    for stem_, title in (("a", "Fog"), ("b", "Fog Bank"), ("c", "Other")):
        said = {"modelspec.title": title, "modelspec.description": "fog fog fog" if stem_ == "c" else ""}
        tensor_file(shelf.root / f"{stem_}.safetensors", SD15_NAMES, said)
    shelf.scan()
    results = search(shelf, "fog").results
    assert [found.model.id for found in results] == ["a", "b", "c"]
    scores = [found.relevance_score for found in results]
    assert scores == sorted(scores, reverse=True) and scores[0] > scores[1] > scores[2] > 0


def test_filters_are_anded(shelf: Shelf) -> None:
    assert ids(shelf, model_types=[ModelType.SD15, ModelType.SDXL]) == ["elan_v2", "virtual-one"]
    assert ids(shelf, tags=["NIGHT"]) == ["elan_v2", "painter"]
    assert ids(shelf, tags=["night", " Oil "]) == ["painter"]
    assert ids(shelf, tags=["nigh"]) == []
    assert ids(shelf, "night", model_types=[ModelType.LoRA], tags=["oil"]) == ["painter"]
    assert ids(shelf, compatible_devices=[DeviceType.CPU]) == ["elan_v2", "painter"]
    assert ids(shelf, compatible_devices=[DeviceType.CPU, DeviceType.GPU]) == ["elan_v2", "painter", "virtual-one"]


def test_ratings_at_the_least_are_kept_and_none_is_below_all(shelf: Shelf) -> None:
    shelf.catalogue.answer(c.UpdateMetadata(model_id="painter", metadata={"rating": 3}), "r")
    assert ids(shelf, min_rating=3.0) == ["painter"] and ids(shelf, min_rating=3.1) == []
    assert ids(shelf, min_rating=0.0) == ["painter"]


def test_memory_is_compared_with_min_vram(shelf: Shelf) -> None:
    needs = {found.model.id: found.model.requirements.min_vram for found in search(shelf).results}
    limit = needs["painter"]
    assert ids(shelf, max_memory_bytes=limit) == sorted(name for name, need in needs.items() if need <= limit)
    assert "painter" not in ids(shelf, max_memory_bytes=limit - 1)


def test_facets_count_all_that_was_found_and_not_the_page(shelf: Shelf) -> None:
    shelf.catalogue.see_devices([device("cpu:0", residency("painter"))])
    reply = search(shelf, "night", page_size=1)
    assert (reply.total_count, reply.total_pages, len(reply.results)) == (2, 2, 1)
    assert reply.facets == {
        "type": {"SD15": 1, "LoRA": 1},
        "tags": {"Night": 2, "sky": 1, "stars": 1, "oil": 1},
        "author": {"Zoë Quinn": 1, "Ada": 1},
        "status": {"Available": 1, "Loaded": 1},
    }
    assert search(shelf, "nowhere").facets == {"type": {}, "tags": {}, "author": {}, "status": {}}


def test_pages_follow_each_other_and_one_beyond_the_last_is_empty(shelf: Shelf) -> None:
    pages = [ids(shelf, page=page, page_size=2) for page in (1, 2, 3)]
    assert pages == [["elan_v2", "painter"], ["virtual-one"], []]
    beyond = search(shelf, page=3, page_size=2)
    assert (beyond.total_count, beyond.total_pages, beyond.page, beyond.page_size) == (3, 2, 3, 2)


def test_highlights_are_of_each_field_that_matched_as_it_is_spelled(shelf: Shelf) -> None:
    (found,) = search(shelf, "elan zoe star landscap").results
    assert found.highlights == {
        "name": "<em>Élan</em> of Night Skies",
        "description": "Paints <em>landscapes</em> at night, with <em>stars</em>",
        "tags": "Night\nsky\n<em>stars</em>",
        "author": "<em>Zoë</em> Quinn",
    }
    (typo,) = search(shelf, "lendscape", [ModelSearchField.Description]).results
    assert typo.highlights == {"description": "Paints <em>landscapes</em> at night, with stars"}
    assert search(shelf).results[0].highlights == {}


def test_of_a_long_text_what_is_around_the_first_word_is_shown(shelf: Shelf) -> None:
    text = "lorem " * 200 + "needle " + "ipsum " * 200
    shelf.catalogue.answer(c.UpdateMetadata(model_id="painter", metadata={"description": text}), "r")
    shown = search(shelf, "needle").results[0].highlights["description"]
    assert "<em>needle</em>" in shown and shown[0] == shown[-1] == "…" and len(shown) < HIGHLIGHT_CHARS + 20


def test_devices_are_told_apart_by_kind_and_memory(shelf: Shelf) -> None:
    shelf.catalogue.see_devices([device("cpu:0"), device("virtual:0")])
    told = {found.model.id: found.device_compatibility for found in search(shelf).results}
    size = (shelf.root / "elan_v2.safetensors").stat().st_size
    assert told["elan_v2"] == {"cpu:0": size <= 1000, "virtual:0": False}
    assert told["virtual-one"] == {"cpu:0": False, "virtual:0": True}


def test_orders_and_directions(shelf: Shelf) -> None:
    shelf.catalogue.answer(c.UpdateMetadata(model_id="painter", metadata={"rating": 3}), "r")
    shelf.use("virtual-one", run_ms=10.0, images=1)
    by = {
        ModelSortBy.Name: ["elan_v2", "painter", "virtual-one"],
        ModelSortBy.Rating: ["painter", "elan_v2", "virtual-one"],
        ModelSortBy.LastUsed: ["virtual-one", "elan_v2", "painter"],
    }
    for order, expected in by.items():
        assert ids(shelf, sort_by=order) == expected, order
    assert ids(shelf, sort_by=ModelSortBy.Name, sort_direction=SortDirection.Descending)[0] == "virtual-one"
    assert ids(shelf, sort_by=ModelSortBy.Rating, sort_direction=SortDirection.Ascending)[-1] == "painter"
    sizes = [found.model.file_size for found in search(shelf, sort_by=ModelSortBy.Size).results]
    assert sizes == sorted(sizes, reverse=True)


def test_a_hash_is_found_by_its_beginning(shelf: Shelf) -> None:
    shelf.scan(HashDepth.FULL)
    checksum = shelf.info("painter").model.checksum
    for query in (checksum, checksum[:8], checksum[:8].upper()):
        (found,) = search(shelf, query).results
        assert found.model.id == "painter" and found.relevance_score >= BY_HASH
    assert ids(shelf, checksum[:5]) == []


def test_a_reply_says_what_was_asked_and_how_long_it_took(shelf: Shelf) -> None:
    reply = search(shelf, "night")
    assert reply.query == "night" and reply.search_time_ms > 0 and reply.message == "2 found"
    assert "results[0].model.hash" in reply.not_measured


def test_a_list_finds_as_a_search_does(shelf: Shelf) -> None:
    assert shelf.ids(search_query="lendscape") == ["elan_v2"]
    assert shelf.ids(search_query="oil night") == ["painter"]


@pytest.mark.parametrize(
    ("one", "other"),
    [("skies", "sky"), ("painted", "painting"), ("classes", "class"), ("images", "image"), ("boxes", "box")],
)
def test_endings_have_one_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_short_words_keep_their_endings() -> None:
    assert [stem(word) for word in ("as", "bus", "red", "class")] == ["as", "bus", "red", "class"]


def test_one_typo_is_one_letter_wrong_missing_added_or_two_swapped() -> None:
    near = typos("abcde")
    assert {"abcd", "abcdef", "abXde".lower(), "bacde"} <= near and "abcde" not in near
    assert "abdec" not in near and "ab" not in near
    assert words("Élan_of-Night") == ["elan", "of", "night"]
