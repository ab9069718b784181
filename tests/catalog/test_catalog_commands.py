from __future__ import annotations

from pathlib import Path

import pytest
from model_bytes import PROFILE, SD15_NAMES, json_file, pipeline_folder, tensor_file
from shelf import NOW, Shelf, device, residency

from protocol import commands as c
from protocol.enums import (
    ComponentStatus,
    DeviceType,
    ModelLoadingStatus,
    ModelSortBy,
    ModelStatus,
    ModelType,
    SortDirection,
    Tier,
)
from protocol.errors import ErrorCode, Fault

SPEC = {
    "modelspec.title": "Élan Vital",
    "modelspec.description": "Paints night skies",
    "modelspec.author": "Zoë",
    "modelspec.license": "MIT",
    "modelspec.date": "2024-03-01",
    "modelspec.tags": "night, sky ,  , stars",
}


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    root = tmp_path / "models"
    pipeline_folder(root / "sd")
    tensor_file(root / "one.safetensors", SD15_NAMES, SPEC)
    tensor_file(root / "lora.safetensors", ["x.lora_down.weight", "x.lora_up.weight"])
    json_file(root / "v.vmodel.json", PROFILE)
    made = Shelf(root, tmp_path / "data")
    made.scan()
    return made


def code_of(shelf: Shelf, command: c.Command) -> ErrorCode:
    with pytest.raises(Fault) as caught:
        shelf.catalogue.answer(command, "r")
    return caught.value.code


def test_header_metadata_becomes_the_host_fields(shelf: Shelf) -> None:
    model = shelf.info("one").model
    assert (model.name, model.description) == ("Élan Vital", "Paints night skies")
    metadata = model.metadata
    assert (metadata.author, metadata.license, metadata.tags) == ("Zoë", "MIT", ["night", "sky", "stars"])
    assert metadata.created_date is not None and metadata.created_date.isoformat() == "2024-03-01T00:00:00+00:00"
    assert shelf.info("sd").model.name == "sd"


def test_unknown_model_is_not_found_with_the_nearest_ids(shelf: Shelf) -> None:
    with pytest.raises(Fault) as caught:
        shelf.info("lor")
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
    assert caught.value.info.details["nearest"] == ["lora"]
    assert code_of(shelf, c.GetModelInfo()) is ErrorCode.MISSING_PARAMETER
    assert code_of(shelf, c.GetModelInfo(model_id="x" * 100_000)) is ErrorCode.MODEL_NOT_FOUND


def test_minimal_vram_is_never_below_the_weights(shelf: Shelf) -> None:
    for model_id in shelf.ids():
        model = shelf.info(model_id).model
        weights = sum(component.size for component in model.components)
        assert model.requirements.min_vram >= weights > 0
        assert model.requirements.recommended_vram >= model.requirements.min_vram
        assert model.requirements.min_ram > 0


def test_what_nothing_uses_is_part_of_the_size_and_of_no_estimate(shelf: Shelf) -> None:
    left = {**{name: [1] for name in SD15_NAMES}, "model_ema.x": [1000]}
    tensor_file(shelf.root / "ema.safetensors", left)
    shelf.scan()
    model = shelf.info("ema").model
    assert model.size_bytes == (shelf.root / "ema.safetensors").stat().st_size
    assert model.requirements.min_vram == model.size_bytes - 4000
    (ref,) = (ref for ref in shelf.catalogue.refs() if ref.model_id == "ema")
    assert ref.size_bytes == model.size_bytes - 4000


def test_a_family_without_a_word_of_its_own_stands_in_the_configuration(shelf: Shelf) -> None:
    tensor_file(shelf.root / "toy.safetensors", {"<cat-toy>": [768]})
    shelf.scan()
    model = shelf.info("toy").model
    assert (model.type, model.metadata.configuration) == (ModelType.Diffusion, {"family": "TextualInversion"})
    shelf.update("toy", {"configuration": {"mine": 1}})
    assert shelf.info("toy").model.metadata.configuration == {"family": "TextualInversion", "mine": 1}


def test_what_a_file_says_of_its_training_stands_in_the_configuration(shelf: Shelf) -> None:
    tensor_file(shelf.root / "v.safetensors", [*SD15_NAMES, "v_pred", "ztsnr"])
    tensor_file(shelf.root / "packed.safetensors", [*SD15_NAMES, "model.diffusion_model.out.2.scale_weight"])
    shelf.scan()
    (found,) = (
        model for model in shelf.listed(include_details=True).models if model.file_path.endswith("/v.safetensors")
    )
    told = found.metadata.configuration
    assert (told["prediction_type"], told["zero_terminal_snr"]) == ("v_prediction", True)
    assert "Euler a" in told["schedulers"] and "PNDM" not in told["schedulers"]
    assert "scaled fp8" in shelf.info("packed").model.metadata.configuration["packed"]
    assert "PNDM" in shelf.info("one").model.metadata.configuration["schedulers"]
    assert set(shelf.info("one").model.metadata.configuration) == {"family", "schedulers"}
    assert shelf.info("one").model.metadata.configuration["family"] == "Stable Diffusion 1"
    assert shelf.info("lora").model.metadata.configuration == {}


def test_parts_left_out_are_empty_and_say_so(shelf: Shelf) -> None:
    reply = shelf.info("sd", include_metadata=False, include_components=False, include_requirements=False)
    assert reply.model.components == []
    assert reply.model.requirements.min_vram == 0
    assert reply.usage_stats is None
    for part in ("metadata", "components", "requirements", "performance"):
        assert reply.not_measured[f"model.{part}"] == "not asked for"
    assert shelf.info("sd").model.components != []
    bare, full = shelf.listed().models[0], shelf.listed(include_details=True).models[0]
    assert (bare.components, bare.requirements.min_vram) == ([], 0)
    assert full.components and full.requirements.min_vram
    assert shelf.listed().not_measured["models[0].components"] == "not asked for"


def test_residency_shows_in_status_tiers_and_components(shelf: Shelf) -> None:
    assert shelf.info("sd").model.status is ModelStatus.Available
    held = residency("sd", Tier.VRAM, [Tier.VRAM, Tier.RAM])
    shelf.catalogue.see_devices([device("cpu:0", held), device("cuda:0", residency("sd", Tier.RAM)), device("cpu:1")])
    reply = shelf.info("sd")
    model = reply.model
    assert (model.status, model.loading_status) == (ModelStatus.Loaded, ModelLoadingStatus.Loaded)
    assert model.loaded_on_devices == ["cpu:0"]
    assert (model.memory_usage.vram_usage, model.memory_usage.ram_usage) == (100, 140)
    assert model.memory_usage.peak_usage == 150
    assert model.memory_usage.device_usage == {"cpu:0": 100}
    parts = {part.name: part for part in model.components}
    assert (parts["unet"].status, parts["unet"].loaded_on_devices) == (ComponentStatus.Loaded, ["cpu:0"])
    assert (parts["unet"].is_loaded_in_vram, parts["unet"].is_cached_in_ram) == (True, True)
    assert (parts["vae"].status, parts["vae"].is_loaded_in_vram) == (ComponentStatus.Cached, False)
    assert parts["tokenizer"].status is ComponentStatus.Available
    assert [(s.device_id, s.status) for s in reply.device_status] == [
        ("cpu:0", ModelStatus.Loaded),
        ("cuda:0", ModelStatus.Available),
        ("cpu:1", ModelStatus.Available),
    ]
    assert [status.device_id for status in shelf.info("sd", device_id="uuid-cpu:1").device_status] == ["cpu:1"]
    shelf.catalogue.see_devices([device("cpu:0")])
    assert shelf.info("sd").model.loading_status is ModelLoadingStatus.NotLoaded


@pytest.mark.parametrize(
    ("fields", "status", "loading"),
    [
        ({"tier": Tier.RAM}, ModelStatus.Available, ModelLoadingStatus.Cached),
        ({"tier": Tier.RAM, "status": ModelStatus.Loading}, ModelStatus.Loading, ModelLoadingStatus.Loading),
        ({"tier": Tier.VRAM, "status": ModelStatus.Unloading}, ModelStatus.Unloading, ModelLoadingStatus.Unloading),
        ({"tier": Tier.RAM, "status": ModelStatus.Error}, ModelStatus.Error, ModelLoadingStatus.Failed),
        ({"tier": Tier.DISK}, ModelStatus.Available, ModelLoadingStatus.NotLoaded),
    ],
)
def test_each_stage_has_its_status(
    shelf: Shelf, fields: dict[str, object], status: ModelStatus, loading: ModelLoadingStatus
) -> None:
    shelf.catalogue.see_devices([device("cpu:0", residency("sd", **fields))])  # type: ignore[arg-type]
    model = shelf.info("sd").model
    assert (model.status, model.loading_status) == (status, loading)


def test_performance_and_usage_are_sums_of_real_runs(shelf: Shelf) -> None:
    assert shelf.info("sd", include_performance=True).not_measured["model.performance"]
    shelf.use("sd", load_ms=30.0, run_ms=100.0, images=2, peak_bytes=5000)
    shelf.use("sd", run_ms=300.0, images=2)
    shelf.use("sd", "virtual:0", run_ms=200.0, images=1)
    reply = shelf.info("sd", include_performance=True)
    performance = reply.model.performance
    assert (performance.average_loading_time, performance.average_inference_time) == (30.0, 200.0)
    assert performance.inference_throughput == pytest.approx(5 / 0.6)
    assert performance.total_inferences == 3
    assert performance.device_performance["cpu:0"].average_inference_time == 200.0
    assert reply.model.memory_usage.peak_usage == 5000
    usage = reply.usage_stats
    assert usage is not None
    assert (usage.total_usage_count, usage.last_used) == (3, NOW)
    assert usage.device_usage_distribution == {DeviceType.CPU: 2, DeviceType.GPU: 1}


def test_the_runs_of_a_benchmark_count_one_by_one(shelf: Shelf) -> None:
    shelf.use("sd", run_ms=900.0, runs=3, images=6, peak_bytes=5000)
    performance = shelf.info("sd", include_performance=True).model.performance
    assert (performance.total_inferences, performance.average_inference_time) == (3, 300.0)
    assert performance.inference_throughput == pytest.approx(6 / 0.9)


def test_virtual_models_run_on_gpus_alone_and_files_on_both(shelf: Shelf) -> None:
    assert shelf.info("v").compatibility.compatible_devices == [DeviceType.GPU]
    assert shelf.info("sd").compatibility.compatible_devices == [DeviceType.GPU, DeviceType.CPU]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, ["one", "lora", "sd", "v"]),
        ({"sort_direction": SortDirection.Descending}, ["v", "sd", "lora", "one"]),
        ({"sort_by": ModelSortBy.Type}, ["lora", "one", "sd", "v"]),
        ({"sort_by": ModelSortBy.CreatedDate, "sort_direction": SortDirection.Descending}, ["one", "lora", "sd", "v"]),
        ({"sort_by": ModelSortBy.LastUsed, "sort_direction": SortDirection.Descending}, ["v", "lora", "one", "sd"]),
        ({"sort_by": ModelSortBy.Performance, "sort_direction": SortDirection.Descending}, ["v", "lora", "one", "sd"]),
        ({"sort_by": ModelSortBy.Rating}, ["lora", "one", "sd", "v"]),
        ({"model_type": ModelType.SD15}, ["one", "sd"]),
        ({"model_type": ModelType.Flux}, []),
        ({"status": ModelStatus.Loaded}, ["sd"]),
        ({"status": ModelStatus.Missing}, []),
        ({"device_id": "cpu:0"}, ["sd"]),
        ({"device_id": "uuid-cpu:0"}, ["sd"]),
        ({"device_id": "auto"}, ["one", "lora", "sd", "v"]),
        ({"device_id": "cpu:1"}, []),
        ({"search_query": "elan"}, ["one"]),
        ({"search_query": "VITAL nig"}, ["one"]),
        ({"search_query": "zoe"}, ["one"]),
        ({"search_query": "star"}, ["one"]),
        ({"search_query": "tars"}, []),
        ({"search_query": "elan lora"}, []),
        ({"search_query": ""}, ["one", "lora", "sd", "v"]),
    ],
)
def test_list_filters_and_orders(shelf: Shelf, fields: dict[str, object], expected: list[str]) -> None:
    shelf.catalogue.see_devices([device("cpu:0", residency("sd")), device("cpu:1")])
    shelf.use("v", run_ms=10.0, images=1)
    assert shelf.ids(**fields) == expected


def test_size_orders_by_bytes(shelf: Shelf) -> None:
    sizes = [model.size_bytes for model in shelf.listed(sort_by=ModelSortBy.Size).models]
    assert sizes == sorted(sizes)


def test_pages_cover_all_models_once_and_count_what_filters_leave(shelf: Shelf) -> None:
    pages = [shelf.listed(page=page, page_size=3) for page in (1, 2, 3)]
    assert [len(page.models) for page in pages] == [3, 1, 0]
    assert len({model.id for page in pages for model in page.models}) == 4
    for page in pages:
        assert (page.total_count, page.total_pages, page.page_size) == (4, 2, 3)
        assert page.type_distribution == {ModelType.SD15: 2, ModelType.LoRA: 1, ModelType.SDXL: 1}
        assert page.status_distribution == {ModelStatus.Available: 4}
    empty = shelf.listed(search_query="nothing")
    assert (empty.total_count, empty.total_pages, empty.type_distribution) == (0, 0, {})


def test_unknown_device_is_not_found(shelf: Shelf) -> None:
    assert code_of(shelf, c.ListModels(device_id="cpu:9")) is ErrorCode.DEVICE_NOT_FOUND


def test_registered_file_is_known_under_its_id_and_told_to_the_broker(shelf: Shelf) -> None:
    shelf.catalogue.take_changed()
    path = tensor_file(shelf.root / "new.safetensors", SD15_NAMES)
    assert shelf.register(path, model_id="mine").model.id == "mine"
    assert [ref.model_id for ref in shelf.catalogue.take_changed()[0]] == ["mine"]
    again = shelf.register(path, model_id="mine")
    assert again.model.revision == 1
    assert shelf.catalogue.take_changed() == ([], [])
    assert shelf.register(path).model.id == "mine"
    assert shelf.register(path, model_id="other").model.id == "other"
    assert shelf.reopen().info("other").model.file_path == str(path)


def test_known_id_keeps_its_path(shelf: Shelf) -> None:
    command = c.RegisterModel(model_id="one", model_path=str(shelf.root / "lora.safetensors"))
    assert code_of(shelf, command) is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("model_id", ["a" * 129, "-a", "a b", "a/b", "a\n", ".a", "é"])
def test_model_id_of_another_form_is_an_invalid_argument(shelf: Shelf, model_id: str) -> None:
    command = c.RegisterModel(model_id=model_id, model_path=str(shelf.root / "sd"))
    assert code_of(shelf, command) is ErrorCode.INVALID_ARGUMENT


@pytest.mark.parametrize("model_id", ["a" * 128, "A", "0.x_y-z"])
def test_model_id_on_the_limit_is_taken(shelf: Shelf, model_id: str) -> None:
    assert shelf.register(shelf.root / "sd", model_id=model_id).model_id == model_id


def test_registration_refuses_what_a_scan_refuses(shelf: Shelf) -> None:
    (shelf.root / "x.ckpt").write_bytes(b"x")
    (shelf.root / "x.safetensors").write_bytes(b"x")
    cases = {
        "x.ckpt": ErrorCode.UNSAFE_MODEL,
        "x.safetensors": ErrorCode.MODEL_CORRUPTED,
        "no": ErrorCode.MODEL_NOT_FOUND,
    }
    for name, code in cases.items():
        assert code_of(shelf, c.RegisterModel(model_path=str(shelf.root / name))) is code
    assert code_of(shelf, c.RegisterModel()) is ErrorCode.MISSING_PARAMETER
    assert code_of(shelf, c.RegisterModel(model_path="/etc/passwd")) is ErrorCode.INVALID_ARGUMENT


def test_declared_type_is_used_only_where_the_file_tells_none(shelf: Shelf) -> None:
    strange = tensor_file(shelf.root / "strange.safetensors", ["x"])
    assert shelf.register(strange, model_type="lora").model.type is ModelType.LoRA
    reply = shelf.register(shelf.root / "one.safetensors", model_type="SDXL")
    assert reply.model.type is ModelType.SD15
    assert "SDXL" in reply.warnings[0] and "SD15" in reply.warnings[0]
    command = c.RegisterModel(model_path=str(strange), model_type="Nonsense")
    assert code_of(shelf, command) is ErrorCode.INVALID_ARGUMENT


def test_what_a_file_says_of_itself_is_shown_up_to_a_length(shelf: Shelf) -> None:
    said = {"modelspec.title": "t" * 501, "modelspec.description": "d" * 8001, "modelspec.tags": "x," * 101}
    tensor_file(shelf.root / "wordy.safetensors", SD15_NAMES, said)
    shelf.scan()
    model = shelf.info("wordy").model
    assert (len(model.name), len(model.description), len(model.metadata.tags)) == (500, 8000, 100)
