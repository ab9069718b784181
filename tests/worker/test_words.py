"""Textual inversions on real models: the word calls its vectors, for this model alone, until it is unloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from demo.inventory import DemoModel
from protocol import commands as c
from protocol.enums import ComponentRole
from protocol.errors import ErrorCode
from protocol.replies import GenerateReply, LoadComponentReply, UnloadComponentReply, UnloadModelReply
from tests.worker.bench import Bench, worker_spec
from tests.worker.test_cpu import SD15, SDXL, draw
from worker.running import TorchModel

SINGLE = "tiny-sd15-single.safetensors"
WORD = "<ink>"
Tensors = dict[str, torch.Tensor]


@pytest.fixture
def bench(model_root: Path, tmp_path: Path) -> Bench:
    torch.set_num_threads(1)
    (tmp_path / "words").mkdir()
    roots = [str(model_root), str(tmp_path / "words")]
    made = Bench(model_root, worker_spec(model_root, model_roots=roots, runtime=str(tmp_path / "runtime")))
    made.words = tmp_path / "words"  # type: ignore[attr-defined]
    return made


def written(bench: Bench, tensors: Tensors, name: str = "ink") -> str:
    path = bench.words / f"{name}.safetensors"  # type: ignore[attr-defined]
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path)
    return str(path)


def load(bench: Bench, path: str, model: str = SD15, **fields: Any) -> LoadComponentReply:
    command = c.LoadComponent(model_id=model, component=ComponentRole.TEXTUAL_INVERSION, path=path, **fields)
    return bench.reply(LoadComponentReply, command, model)


def error(bench: Bench, path: str, model: str = SD15, **fields: Any) -> Any:
    command = c.LoadComponent(model_id=model, component=ComponentRole.TEXTUAL_INVERSION, path=path, **fields)
    return bench.error(command, model)


def unload(bench: Bench, name: str = "", model: str = SD15) -> UnloadComponentReply:
    command = c.UnloadComponent(model_id=model, component=ComponentRole.TEXTUAL_INVERSION, name=name)
    return bench.reply(UnloadComponentReply, command, model)


def picture(bench: Bench, prompt: str, model: str = SD15) -> bytes:
    outcome = bench.run(draw(model, prompt=prompt), model)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


def table(bench: Bench, model: str = SD15, part: str = "text_encoder") -> torch.Tensor:
    resident = bench.engine.cache.get(model)
    assert resident is not None and isinstance(resident.built, TorchModel)
    found: torch.Tensor = resident.built._pipelines.components[part].get_input_embeddings().weight
    return found


def row(bench: Bench, word: str, model: str = SD15) -> torch.Tensor:
    """The vector that an ordinary word has."""
    resident = bench.engine.cache.get(model)
    assert resident is not None and isinstance(resident.built, TorchModel)
    ids = resident.built._pipelines.components["tokenizer"](word).input_ids[1:-1]
    return table(bench, model)[ids].detach().clone()


@pytest.mark.parametrize("key", ["emb_params", WORD])
def test_a_word_draws_what_its_vectors_say(bench: Bench, key: str) -> None:
    boat = picture(bench, "a boat")
    plain = picture(bench, f"a {WORD}")
    used = bench.engine.device.gauge().used
    name = WORD if key == "emb_params" else ""
    reply = load(bench, written(bench, {key: row(bench, "boat")}), name=name)
    assert reply.component.name == WORD and reply.memory_added == bench.engine.device.gauge().used - used > 0
    assert picture(bench, f"a {WORD}") == boat != plain
    assert picture(bench, "a boat") == boat
    unload(bench)
    assert picture(bench, f"a {WORD}") == plain and bench.engine.device.gauge().used == used


def test_a_word_of_several_vectors_is_as_many_tokens(bench: Bench) -> None:
    boats = picture(bench, "a red boat")
    vectors = torch.cat([row(bench, "red"), row(bench, "boat")])
    load(bench, written(bench, {"emb_params": vectors}), name=WORD)
    assert picture(bench, f"a {WORD}") == boats
    assert picture(bench, f"a ({WORD}:1.3)") == picture(bench, "a (red boat:1.3)") != boats


def test_two_encoders_have_each_their_own(bench: Bench) -> None:
    boat = picture(bench, "a boat", SDXL)
    ids = [table(bench, SDXL, part) for part in ("text_encoder", "text_encoder_2")]
    resident = bench.engine.cache.get(SDXL)
    assert resident is not None and isinstance(resident.built, TorchModel)
    number = resident.built._pipelines.components["tokenizer"]("boat").input_ids[1]
    tensors = {"clip_l": ids[0][number : number + 1].clone(), "clip_g": ids[1][number : number + 1].clone()}
    load(bench, written(bench, tensors), SDXL, name=WORD)
    assert picture(bench, f"a {WORD}", SDXL) == boat


def test_several_words_and_each_unloaded_alone(bench: Bench) -> None:
    boat, red = picture(bench, "a boat"), picture(bench, "a red")
    load(bench, written(bench, {"emb_params": row(bench, "boat")}), name=WORD)
    load(bench, written(bench, {"emb_params": row(bench, "red")}, "paint"))
    assert (picture(bench, f"a {WORD}"), picture(bench, "a paint")) == (boat, red)
    command = c.UnloadComponent(model_id=SD15, component=ComponentRole.TEXTUAL_INVERSION)
    assert bench.error(command, SD15).details["field"] == "name"
    unload(bench, WORD)
    assert picture(bench, "a paint") == red and picture(bench, f"a {WORD}") != boat


def test_another_model_that_shares_the_encoder_does_not_know_it(bench: Bench) -> None:
    plain = picture(bench, f"a {WORD}")
    assert picture(bench, f"a {WORD}", SINGLE) == plain
    load(bench, written(bench, {"emb_params": row(bench, "boat")}), name=WORD)
    assert picture(bench, f"a {WORD}", SINGLE) == plain != picture(bench, f"a {WORD}")


def test_it_goes_with_its_model_to_the_ram_tier_and_back(bench: Bench) -> None:
    boat = picture(bench, "a boat")
    load(bench, written(bench, {"emb_params": row(bench, "boat")}), name=WORD)
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15), SD15)
    assert picture(bench, f"a {WORD}") == boat
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=SD15, clear_cache=True), SD15)
    assert len(bench.engine.device.components) == 0  # type: ignore[attr-defined]


def test_what_does_not_fit_is_refused_and_changes_nothing(bench: Bench) -> None:
    first = picture(bench, f"a {WORD}")
    wide = error(bench, written(bench, {"emb_params": torch.randn(1, 768)}))
    assert wide.code is ErrorCode.MODEL_INCOMPATIBLE and "768 wide" in wide.message
    vector = row(bench, "boat")
    holes = error(bench, written(bench, {"emb_params": vector * float("nan")}))
    assert holes.code is ErrorCode.MODEL_CORRUPTED
    for word in ("two words", "x" * 65, "line\nbreak"):
        assert error(bench, written(bench, {"emb_params": vector}), name=word).details["field"] == "name"
    whole = error(bench, str(bench.root / SINGLE))
    assert whole.code is ErrorCode.MODEL_INCOMPATIBLE and "no textual inversion" in whole.message
    assert picture(bench, f"a {WORD}") == first


def test_a_family_without_clip_encoders_takes_none(bench: Bench) -> None:
    picture(bench, "a boat", DemoModel.Z_IMAGE)
    path = written(bench, {"emb_params": torch.randn(1, 768)})
    assert error(bench, path, DemoModel.Z_IMAGE).code is ErrorCode.NOT_SUPPORTED
