"""Configurations against weights without memory, tokenizers against their encoders: what loads, and what is told."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.drawing import Mode
from protocol.enums import ModelStatus, ModelType
from protocol.errors import ErrorCode, ErrorInfo, Fault
from protocol.link import ModelRef
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, worker_spec
from worker.vocabularies import FEWEST_TOKENS, LONGEST_TEXT, bound_tokenizers

SD15, SD3, SINGLE = "tiny-sd15", "tiny-sd3", "tiny-sd15-single"
MOST_GROWTH = 96 << 20
"""What a refusal may cost the process, libraries' own caches among it."""


class Copy:
    """A demo model of its own, whose configurations a test changes."""

    def __init__(self, source: Path, root: Path, name: str) -> None:
        self.root, self.name = root, name
        shutil.copytree(source / name, root / name, copy_function=shutil.copy)
        self.file = f"{name}.safetensors" if (source / f"{name}.safetensors").exists() else name
        if self.file != name:
            shutil.copy(source / self.file, root / self.file)
        self.bench = Bench(root, worker_spec(root))

    def edit(self, config: str, **values: Any) -> None:
        path = self.root / self.name / config
        content = {**json.loads(path.read_text()), **values}
        path.unlink()
        path.write_text(json.dumps(content))

    def run(self, command: c.Command) -> Any:
        path = str(self.root / self.file)
        ref = ModelRef(model_id=self.name, path=path, type=ModelType.SD15, size_bytes=1, status=ModelStatus.Available)
        return self.bench.run(command, model=ref).reply

    def refusal(self) -> ErrorInfo:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        error: ErrorInfo | None = self.run(c.LoadModel(model_id=self.name)).error
        assert error is not None
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) << 10 < MOST_GROWTH
        return error

    def draws(self, prompt: str = "a boat") -> bool:
        command = c.Generate(model_id=self.name, prompt=prompt, steps=1, seed=1, width=64, height=64)
        return isinstance(self.run(command), GenerateReply)


@pytest.fixture
def copy(model_root: Path, tmp_path: Path) -> Callable[[str], Copy]:
    def make(name: str) -> Copy:
        return Copy(model_root, tmp_path / "models", name)

    return make


MORE_THAN_THE_WEIGHTS = {
    "rows of a vocabulary": ("text_encoder/config.json", {"vocab_size": 4 << 20}),
    "fewer rows": ("text_encoder/config.json", {"vocab_size": 49407}),
    "positions": ("text_encoder/config.json", {"max_position_embeddings": 1 << 17}),
    "layers": ("text_encoder/config.json", {"num_hidden_layers": 1024}),
    "one layer more": ("text_encoder/config.json", {"num_hidden_layers": 3}),
    "width": ("text_encoder/config.json", {"hidden_size": 64}),
    "blocks": ("unet/config.json", {"layers_per_block": 1000}),
    "channels": ("unet/config.json", {"block_out_channels": [16, 16, 32, 65536]}),
    "channels of a VAE": ("vae/config.json", {"latent_channels": 1 << 16}),
    "heads that do not divide": ("text_encoder/config.json", {"num_attention_heads": 3}),
    "groups that do not divide": ("unet/config.json", {"norm_num_groups": 7}),
    "a word that nobody knows": ("unet/config.json", {"resnet_time_scale_shift": "sideways"}),
    "another schedule": ("scheduler/scheduler_config.json", {"beta_schedule": "laplace"}),
}


@pytest.mark.parametrize("case", MORE_THAN_THE_WEIGHTS)
def test_a_configuration_that_the_weights_do_not_have_is_refused_before_anything_is_built(
    copy: Callable[[str], Copy], case: str
) -> None:
    model = copy(SD15)
    file, values = MORE_THAN_THE_WEIGHTS[case]
    model.edit(file, **values)
    error = model.refusal()
    assert error.code in (ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.MODEL_CORRUPTED), error
    assert file.split("/")[0] in error.message


def test_a_single_files_configuration_is_held_against_its_tensors(copy: Callable[[str], Copy]) -> None:
    model = copy(SINGLE)
    assert model.draws()
    model.edit("unet/config.json", block_out_channels=[16, 16, 32, 4096])
    model.bench.run(c.UnloadModel(model_id=SINGLE, clear_cache=True))
    error = model.refusal()
    assert error.code is ErrorCode.MODEL_INCOMPATIBLE
    assert "unet" in error.message and f"the folder {SINGLE} beside it" in error.message


@pytest.mark.parametrize("length", [10**15, 10**30, 77, 20])
def test_a_tokenizer_that_knows_no_end_ends_where_its_encoder_does(copy: Callable[[str], Copy], length: int) -> None:
    model = copy(SD15)
    model.edit("tokenizer/tokenizer_config.json", model_max_length=length)
    assert model.draws("a very long prompt of many words " * 60)


def test_a_default_size_of_a_file_is_held_to_its_familys(copy: Callable[[str], Copy]) -> None:
    model = copy(SD15)
    model.edit("unet/config.json", sample_size=2048)
    assert isinstance(model.run(c.LoadModel(model_id=SD15)), LoadModelReply)
    resident = model.bench.engine.cache.get(SD15)
    assert resident is not None
    pipelines = resident.built._pipelines  # type: ignore[attr-defined]
    assert pipelines.default_sides(pipelines.pipeline(Mode.TEXT, ""), 8192) == (768, 768)
    assert pipelines.default_sides(pipelines.pipeline(Mode.TEXT, ""), 500) == (496, 496)


def test_t5_has_a_longest_text_too(copy: Callable[[str], Copy]) -> None:
    model = copy(SD3)
    model.edit("tokenizer_3/tokenizer_config.json", model_max_length=10**30)
    assert isinstance(model.run(c.LoadModel(model_id=SD3)), LoadModelReply)
    resident = model.bench.engine.cache.get(SD3)
    assert resident is not None
    assert resident.built._pipelines.components["tokenizer_3"].model_max_length == LONGEST_TEXT  # type: ignore[attr-defined]


class Words:
    """A tokenizer of so many tokens."""

    def __init__(self, count: int) -> None:
        self.model_max_length = 10**30
        self._count = count

    def get_vocab(self) -> dict[str, int]:
        return {str(index): index for index in range(self._count)}


def encoder(rows: int) -> Any:
    text = SimpleNamespace(vocab_size=rows, max_position_embeddings=77)
    return SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: text))


def test_the_last_token_with_a_row_is_taken_and_one_without_is_not() -> None:
    words = Words(10)
    bound_tokenizers({"tokenizer": words, "text_encoder": encoder(10)})
    assert words.model_max_length == 77
    with pytest.raises(Fault, match="token 9, and the vocab_size of its text encoder is 9") as caught:
        bound_tokenizers({"tokenizer_2": Words(10), "text_encoder_2": encoder(9)})
    assert caught.value.code is ErrorCode.MODEL_INCOMPATIBLE


def test_a_vocabulary_of_nothing_is_corrupted() -> None:
    bound_tokenizers({"tokenizer": Words(FEWEST_TOKENS), "text_encoder": encoder(10), "tokenizer_2": None})
    with pytest.raises(Fault) as caught:
        bound_tokenizers({"tokenizer": Words(FEWEST_TOKENS - 1), "text_encoder": encoder(10)})
    assert caught.value.code is ErrorCode.MODEL_CORRUPTED


def test_a_model_without_all_its_parts_is_told_so(copy: Callable[[str], Copy]) -> None:
    model = copy(SD15)
    for part in ("vae", "scheduler", "tokenizer", "text_encoder", "unet"):
        whole = json.loads((model.root / SD15 / "model_index.json").read_text())
        for value in (7, [None, None], None):
            model.edit("model_index.json", **{part: value})
            with pytest.raises(Fault) as caught:
                inspect(model.root / SD15, Roots([model.root]))
            assert part in str(caught.value)
        model.edit("model_index.json", **{part: whole[part]})
    assert model.draws()


def test_a_models_own_chat_template_is_never_run(copy: Callable[[str], Copy]) -> None:
    made = copy("tiny-z-image")
    endless = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    (made.root / made.name / "tokenizer" / "chat_template.jinja").write_text(endless)
    made.edit("tokenizer/tokenizer_config.json", chat_template=endless)
    reply = made.run(c.Generate(model_id=made.name, prompt="x", steps=1, width=64, height=64))
    assert isinstance(reply, GenerateReply), reply.error
