"""Tensors are read as they are in their files, in the type wanted, in memory that goes back when they go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from modelfiles.headers import read_header
from protocol import commands as c
from protocol.enums import LoadingStrategy
from protocol.errors import ErrorCode, Fault
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, worker_spec
from worker import pagecache, parts, reader
from worker.arena import ALIGNMENT_BYTES
from worker.pace import Pace
from worker.reader import TYPES, Reader

MIB = 1 << 20
SMALL = Pace(chunk_bytes=64 << 10)
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


def tensors() -> dict[str, torch.Tensor]:
    """One of each type, one without dimensions, one without elements, some longer than a chunk."""
    chance = torch.Generator().manual_seed(3)
    made = {str(dtype): (torch.rand(301, 7, generator=chance) * 100).to(dtype) for dtype in (*FLOATS, *WHOLE)}
    return {**made, "scalar": torch.tensor(1.5), "empty": torch.empty(0, 4), "long": torch.rand(5000, generator=chance)}


def as_they_are(_: str, source: torch.dtype) -> torch.dtype:
    return source


def read(path: Path, choose: Callable[[str, torch.dtype], torch.dtype], **given: Any) -> dict[str, torch.Tensor]:
    header = read_header(path)
    check, tell = given.get("check", lambda: None), given.get("tell", lambda _: None)
    return Reader(check, tell, given.get("pace", Pace())).read([(path, header, header.tensors)], choose)


@pytest.mark.parametrize("pace", [Pace(), Pace(chunk_bytes=1000), Pace(threads=1, chunk_bytes=1000, gives_back=True)])
def test_every_type_is_read_as_it_is_and_cast_as_torch_casts(tmp_path: Path, pace: Pace) -> None:
    made = tensors()
    save_file(made, tmp_path / "m.safetensors")
    found = read(tmp_path / "m.safetensors", as_they_are)
    assert found.keys() == made.keys()
    for name, tensor in made.items():
        assert found[name].dtype is tensor.dtype and found[name].shape == tensor.shape
        assert torch.equal(found[name].view(-1).view(torch.uint8), tensor.view(-1).view(torch.uint8)), name
        assert not tensor.numel() or found[name].data_ptr() % ALIGNMENT_BYTES == 0
    for wanted in (torch.float32, torch.float16, torch.bfloat16):
        cast = read(tmp_path / "m.safetensors", lambda _, source, to=wanted: to if source.is_floating_point else source)
        for name, tensor in made.items():
            expected = tensor.to(wanted) if tensor.is_floating_point() else tensor
            assert torch.equal(cast[name], expected), (name, wanted)


def test_every_type_that_weights_have_is_known() -> None:
    assert {*FLOATS, *WHOLE} <= set(TYPES.values())


def test_a_file_that_becomes_shorter_while_it_is_read_is_corrupted_and_no_end_of_the_process(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(MIB), "b": torch.ones(MIB)}, path)
    header = read_header(path)
    with path.open("r+b") as file:
        file.truncate(header.data_begin + 5 * MIB)
    with pytest.raises(Fault) as caught:
        Reader(lambda: None, lambda _: None).read([(path, header, header.tensors)], as_they_are)
    assert caught.value.code is ErrorCode.MODEL_CORRUPTED and "become shorter" in caught.value.info.message


def test_a_cancel_is_heard_between_chunks_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(16 * MIB)}, path)
    asked = 0

    def check() -> None:
        nonlocal asked
        asked += 1
        if asked > 3:
            raise Fault(ErrorCode.CANCELLED, "enough")

    header, reading = read_header(path), Reader(check, lambda _: None, SMALL)
    with pytest.raises(Fault) as caught:
        reading.read([(path, header, header.tensors)], as_they_are)
    assert caught.value.code is ErrorCode.CANCELLED
    assert reading.bytes < 64 * MIB


def test_what_was_read_is_told_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "TELL_SECONDS", 0.0)
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(MIB), "b": torch.ones(MIB)}, path)
    told: list[int] = []
    header, reading = read_header(path), Reader(lambda: None, told.append, SMALL)
    reading.read([(path, header, header.tensors)], as_they_are)
    assert told == sorted(told) and told[-1] == reading.bytes == 8 * MIB and reading.seconds > 0


@pytest.mark.parametrize(("gives_back", "left"), [(False, 1.0), (True, 0.01)])
def test_pages_leave_the_page_cache_behind_the_reading_where_asked(
    tmp_path: Path, gives_back: bool, left: float
) -> None:
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(4 * MIB), "b": torch.ones(4 * MIB)}, path)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if pagecache.ratio([path]) != 0.0:
        pytest.skip("this file system keeps the pages of its files, or the system does not say")
    found = read(path, as_they_are, pace=Pace(threads=1, chunk_bytes=MIB, gives_back=gives_back))
    assert torch.equal(found["b"], torch.ones(4 * MIB))
    ratio = pagecache.ratio([path])
    assert ratio is not None and (ratio <= left if gives_back else ratio == left)


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_names_of_an_older_version_are_left_to_the_library(
    model_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    for name in ("new", "old"):
        shutil.copytree(model_root / "tiny-sd15", tmp_path / name)
    path = tmp_path / "old" / "vae" / "diffusion_pytorch_model.safetensors"
    changed = load_file(path)
    for new, old in OLD_NAMES.items():
        for name in [name for name in changed if f".attentions.0.{new}." in name]:
            changed[name.replace(new, old)] = changed.pop(name)
    save_file(changed, path, metadata={"format": "pt"})
    called: list[str] = []
    library = parts._by_library
    monkeypatch.setattr(parts, "_by_library", lambda part, *rest: (called.append(part.name), library(part, *rest))[1])
    bench = Bench(tmp_path, worker_spec(tmp_path))
    draw = {"prompt": "x", "seed": 1, "steps": 2, "width": 64, "height": 64}
    new, old = (bench.run(c.Generate(model_id=name, **draw), name) for name in ("new", "old"))
    assert isinstance(old.reply, GenerateReply), old.reply.error
    assert called == ["vae"] and new.attachments == old.attachments


def test_a_language_model_with_its_head_is_read_without_it(model_root: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    for name in ("new", "old"):
        shutil.copytree(model_root / "tiny-z-image", tmp_path / name)
    folder = tmp_path / "old" / "text_encoder"
    own = {f"model.{name}": tensor for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file({**own, "lm_head.weight": torch.zeros(259, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["Qwen3ForCausalLM"]}))
    bench = Bench(tmp_path, worker_spec(tmp_path))
    draw = {"prompt": "x", "seed": 1, "steps": 2, "width": 64, "height": 64}
    new, old = (bench.run(c.Generate(model_id=name, **draw), name) for name in ("new", "old"))
    assert isinstance(old.reply, GenerateReply), old.reply.error
    assert new.attachments == old.attachments


@pytest.mark.parametrize("strategy", [LoadingStrategy.FAST, LoadingStrategy.LOW_MEMORY])
def test_a_strategy_is_answered_and_changes_no_picture(model_root: Path, strategy: LoadingStrategy) -> None:
    name = "tiny-sd15"
    plain, bench = (Bench(model_root, worker_spec(model_root)) for _ in range(2))
    reply = bench.reply(LoadModelReply, c.LoadModel(model_id=name, loading_strategy=strategy), name)
    assert reply.coordination is not None
    assert (reply.coordination.honoured, reply.coordination.ignored) == (["loading_strategy"], [])
    again = bench.reply(LoadModelReply, c.LoadModel(model_id=name, loading_strategy=strategy), name)
    assert again.coordination is not None and "nothing was read" in again.coordination.ignored[0].reason
    command = c.Generate(model_id=name, prompt="x", steps=1, seed=7, width=64, height=64)
    assert bench.run(command, name).attachments == plain.run(command, name).attachments
