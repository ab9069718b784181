from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from model_bytes import UNET, json_file, pipeline_folder, tensor_file

from modelfiles.model import Kind, inspect
from modelfiles.paths import Roots
from protocol.enums import ComponentType, ModelType
from protocol.errors import ErrorCode, Fault

VAE_FILE = "vae/diffusion_pytorch_model.safetensors"
UNET_FILE = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pipeline_folder(tmp_path / "models" / "sd")


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    return Roots([tmp_path / "models"])


def code_of(folder: Path, roots: Roots) -> ErrorCode:
    with pytest.raises(Fault) as caught:
        inspect(folder, roots)
    return caught.value.code


def edit(path: Path, **changes: object) -> None:
    json_file(path, {**json.loads(path.read_text()), **changes})


def test_folder_names_every_part_and_counts_only_the_weights_that_its_pipeline_uses(folder: Path, roots: Roots) -> None:
    expected = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    tensor_file(folder / "unet/diffusion_pytorch_model.fp16.safetensors", UNET)
    (folder / "unet/diffusion_pytorch_model.bin").write_bytes(b"old")
    found = inspect(folder, roots)
    assert (found.kind, found.type, found.size_bytes) == (Kind.FOLDER, ModelType.SD15, expected)
    assert {part.name: part.type for part in found.parts} == {
        "scheduler": ComponentType.Scheduler,
        "text_encoder": ComponentType.TextEncoder,
        "tokenizer": ComponentType.Tokenizer,
        "unet": ComponentType.UNet,
        "vae": ComponentType.VAE,
    }
    assert found.native_side == 512


@pytest.mark.parametrize(
    ("width", "family"), [(1024, ModelType.SD21), ([1024, 1024], ModelType.SD21), (768, ModelType.SD15)]
)
def test_configuration_tells_sd2_from_sd1(tmp_path: Path, roots: Roots, width: object, family: ModelType) -> None:
    assert inspect(pipeline_folder(tmp_path / "models/x", cross_attention_dim=width), roots).type is family


def test_variant_is_used_where_there_is_no_plain_file(folder: Path, roots: Roots) -> None:
    (folder / VAE_FILE).rename(folder / "vae/diffusion_pytorch_model.fp16.safetensors")
    vae = next(part for part in inspect(folder, roots).parts if part.name == "vae")
    assert Path(vae.reads["diffusion_pytorch_model.safetensors"]).name == "diffusion_pytorch_model.fp16.safetensors"


def shard(folder: Path, names: dict[str, str]) -> None:
    (folder / UNET_FILE).unlink()
    json_file(folder / "unet/diffusion_pytorch_model.safetensors.index.json", {"weight_map": names})


def test_shards_are_all_there_or_the_model_is_corrupted(folder: Path, roots: Roots) -> None:
    shard(folder, {"a": "s-1.safetensors", "b": "s-2.safetensors"})
    tensor_file(folder / "unet/s-1.safetensors", ["a"])
    assert code_of(folder, roots) is ErrorCode.MODEL_CORRUPTED
    tensor_file(folder / "unet/s-2.safetensors", ["c"])
    assert code_of(folder, roots) is ErrorCode.MODEL_CORRUPTED
    tensor_file(folder / "unet/s-2.safetensors", ["b"])
    unet = next(part for part in inspect(folder, roots).parts if part.name == "unet")
    assert [Path(file).name for file in unet.files] == ["s-1.safetensors", "s-2.safetensors"]


def test_shard_outside_its_folder_is_unsafe(folder: Path, roots: Roots) -> None:
    shard(folder, {"a": "../vae/diffusion_pytorch_model.safetensors"})
    assert code_of(folder, roots) is ErrorCode.UNSAFE_MODEL


UNSAFE: dict[str, Callable[[Path], object]] = {
    "unknown pipeline": lambda f: edit(f / "model_index.json", _class_name="EvilPipeline"),
    "custom pipeline": lambda f: edit(f / "model_index.json", _class_name=["pipeline", "StableDiffusionPipeline"]),
    "no pipeline": lambda f: edit(f / "model_index.json", _class_name=None),
    "unknown class": lambda f: edit(f / "model_index.json", vae=["diffusers", "EvilVAE"]),
    "known class of another library": lambda f: edit(f / "model_index.json", vae=["os", "AutoencoderKL"]),
    "dotted class": lambda f: edit(f / "model_index.json", vae=["builtins", "exec"]),
    "extra part": lambda f: edit(f / "model_index.json", extra=["evil", "Extra"]),
    "part as a path": lambda f: edit(f / "model_index.json", **{"../vae": ["diffusers", "AutoencoderKL"]}),
    "half a pair": lambda f: edit(f / "model_index.json", extra=["evil", None]),
    "auto_map in the index": lambda f: edit(f / "model_index.json", auto_map={"AutoModel": "evil.Model"}),
    "auto_map in a part": lambda f: edit(f / "text_encoder/config.json", auto_map={"AutoModel": "evil.Model"}),
    "auto_map deep inside": lambda f: edit(f / "text_encoder/config.json", x=[{"y": {"auto_map": "z"}}]),
    "auto_map of a tokenizer": lambda f: edit(f / "tokenizer/tokenizer_config.json", auto_map={"A": ["b", None]}),
    "kernel from a hub": lambda f: edit(f / "text_encoder/config.json", _attn_implementation="evil/kernel"),
    "unknown architecture": lambda f: edit(f / "text_encoder/config.json", architectures=["EvilModel"]),
    "unknown tokenizer": lambda f: edit(f / "tokenizer/tokenizer_config.json", tokenizer_class="evil.Tokenizer"),
    "program in the folder": lambda f: (f / "pipeline.py").write_text("import os"),
    "program in a part": lambda f: (f / "unet/unet.py").write_text("import os"),
    "weights only as a pickle": lambda f: (f / VAE_FILE).rename(f / "vae/diffusion_pytorch_model.bin"),
}


@pytest.mark.parametrize("case", UNSAFE)
def test_folder_that_could_run_code_is_unsafe(folder: Path, roots: Roots, case: str) -> None:
    UNSAFE[case](folder)
    assert code_of(folder, roots) is ErrorCode.UNSAFE_MODEL


CORRUPTED: dict[str, Callable[[Path], object]] = {
    "weights missing": lambda f: (f / VAE_FILE).unlink(),
    "part missing": lambda f: shutil.rmtree(f / "scheduler"),
    "configuration missing": lambda f: (f / "unet/config.json").unlink(),
    "weights truncated": lambda f: (f / VAE_FILE).write_bytes((f / VAE_FILE).read_bytes()[:-1]),
    "index no JSON": lambda f: (f / "model_index.json").write_text("{"),
    "index with a key twice": lambda f: (f / "model_index.json").write_text('{"_class_name": 1, "_class_name": 2}'),
    "no weights at all": lambda f: [path.unlink() for path in f.rglob("*.safetensors")],
}


@pytest.mark.parametrize("case", CORRUPTED)
def test_folder_that_is_not_whole_is_corrupted(folder: Path, roots: Roots, case: str) -> None:
    CORRUPTED[case](folder)
    assert code_of(folder, roots) is ErrorCode.MODEL_CORRUPTED


def test_part_that_is_a_link_out_of_the_roots_is_unsafe(folder: Path, roots: Roots, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    (folder / VAE_FILE).rename(outside)
    (folder / VAE_FILE).symlink_to(outside)
    assert code_of(folder, roots) is ErrorCode.UNSAFE_MODEL
    (folder / VAE_FILE).unlink()
    shutil.move(folder / "vae", tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    assert code_of(folder, roots) is ErrorCode.UNSAFE_MODEL


def test_folder_of_one_part_is_a_model_of_that_part(folder: Path, roots: Roots) -> None:
    found = inspect(folder / "vae", roots)
    assert (found.type, [part.name for part in found.parts]) == (ModelType.VAE, ["vae"])


def test_all_that_a_library_may_read_is_named(folder: Path, roots: Roots) -> None:
    (folder / "tokenizer/vocab.json").write_text("{}")
    (folder / "tokenizer/notes.txt").write_text("not read")
    reads = {part.name: set(part.reads) for part in inspect(folder, roots).parts}
    assert reads["unet"] == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert "vocab.json" in reads["tokenizer"] and "notes.txt" not in reads["tokenizer"]


def test_of_a_single_file_and_an_index_beside_it_one_is_decided_on(folder: Path, roots: Roots) -> None:
    names = dict.fromkeys(UNET, "elsewhere.safetensors")
    json_file(folder / "unet/diffusion_pytorch_model.safetensors.index.json", {"weight_map": names})
    reads = next(part.reads for part in inspect(folder, roots).parts if part.name == "unet")
    assert set(reads) == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_a_vocabulary_that_leads_out_of_the_roots_is_unsafe(folder: Path, roots: Roots, tmp_path: Path) -> None:
    (tmp_path / "secret.json").write_text("{}")
    (folder / "tokenizer/vocab.json").unlink(missing_ok=True)
    (folder / "tokenizer/vocab.json").symlink_to(tmp_path / "secret.json")
    assert code_of(folder, roots) is ErrorCode.UNSAFE_MODEL


MISPLACED: dict[str, Callable[[Path], object]] = {
    "a VAE as the UNet": lambda f: edit(f / "model_index.json", unet=["diffusers", "AutoencoderKL"]),
    "a UNet as the VAE": lambda f: edit(f / "model_index.json", vae=["diffusers", "UNet2DConditionModel"]),
    "a scheduler as the tokenizer": lambda f: edit(f / "model_index.json", tokenizer=["diffusers", "DDIMScheduler"]),
    "a VAE's configuration in the UNet": lambda f: edit(f / "unet/config.json", _class_name="AutoencoderKL"),
    "another scheduler's": lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="DDIMScheduler"),
    "another encoder's": lambda f: edit(f / "text_encoder/config.json", architectures=["T5EncoderModel"]),
    "zero groups": lambda f: edit(f / "unet/config.json", norm_num_groups=0),
    "no blocks": lambda f: edit(f / "vae/config.json", block_out_channels=[]),
    "timesteps without end": lambda f: edit(f / "scheduler/scheduler_config.json", num_train_timesteps=10**8),
    "a setting of the index": lambda f: edit(f / "model_index.json", requires_safety_checker=10**30),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_a_part_that_is_not_what_its_place_says_is_incompatible(folder: Path, roots: Roots, case: str) -> None:
    MISPLACED[case](folder)
    with pytest.raises(Fault) as caught:
        inspect(folder, roots)
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE and caught.value.info.details["key"]


@pytest.mark.parametrize("architecture", ["CLIPTextModel", "CLIPModel", "CLIPTextModelWithProjection"])
def test_a_class_whose_weights_serve_too_is_taken(folder: Path, roots: Roots, architecture: str) -> None:
    edit(folder / "text_encoder/config.json", architectures=[architecture])
    assert inspect(folder, roots).parts


def test_a_tokenizer_needs_a_vocabulary_of_either_kind(folder: Path, roots: Roots) -> None:
    (folder / "tokenizer/merges.txt").unlink()
    with pytest.raises(Fault, match=r"vocab.json and merges.txt or tokenizer.json is missing") as caught:
        inspect(folder, roots)
    assert caught.value.code is ErrorCode.MODEL_CORRUPTED
    (folder / "tokenizer/tokenizer.json").write_text("{}")
    assert inspect(folder, roots).parts


def test_a_vocabulary_up_to_the_limit_is_taken_and_a_byte_more_is_not(
    folder: Path, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelfiles.roles.VOCABULARY_LIMIT_BYTES", 100)
    (folder / "tokenizer/vocab.json").write_bytes(b"{}".ljust(100))
    assert inspect(folder, roots).parts
    (folder / "tokenizer/vocab.json").write_bytes(b"{}".ljust(101))
    assert code_of(folder, roots) is ErrorCode.MODEL_CORRUPTED
