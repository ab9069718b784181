"""Models that take turns on a device too small for all of them: every picture is that of its model, whatever moved."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest

from protocol import commands as c
from protocol.enums import LoadSource, Tier
from protocol.errors import ErrorCode, Fault
from protocol.replies import GenerateReply, LoadModelReply
from tests.worker.bench import Bench, worker_spec
from worker.components import Component
from worker.running import TorchModel

NAMES = ("a", "b", "c", "d")
SLACK_BYTES = 1 << 16
TABLE_BYTES = 1 << 17
"""What the blocks of a model take in the RAM tier beyond its weights, at most."""


def draw(name: str) -> c.Generate:
    return c.Generate(model_id=name, prompt="a small boat", steps=1, seed=7, width=32, height=32)


@pytest.fixture(scope="module")
def models(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """Four models of one size, and the bytes of one on its device: UNets differ, two share all else, two nothing."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("swaps")
    for number, name in enumerate(NAMES):
        shutil.copytree(model_root / "tiny-sd15", root / name)
        for path in (root / name).glob("unet/*.safetensors" if number < len(NAMES) // 2 else "*/*.safetensors"):
            tensors = {key: tensor * (1 - 0.1 * number) for key, tensor in load_file(path).items()}
            save_file(tensors, path, metadata={"format": "pt"})
    bench = Bench(root, worker_spec(root))
    return root, bench.reply(LoadModelReply, c.LoadModel(model_id="a"), "a").memory_usage


def bench_for(models: tuple[Path, int], vram: int, ram: int) -> Bench:
    """A device for `vram` models beside a RAM tier for `ram`."""
    root, size = models
    spec = worker_spec(root, budget_bytes=vram * size + SLACK_BYTES, ram_budget_bytes=ram * (size + TABLE_BYTES))
    return Bench(root, spec)


def picture(bench: Bench, name: str) -> bytes:
    outcome = bench.run(draw(name), name)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


def test_what_is_being_promoted_is_not_dropped_to_make_room_for_what_leaves(models: tuple[Path, int]) -> None:
    bench = bench_for(models, vram=1, ram=1)
    first = picture(bench, "a")
    for name in ("b", "a"):
        bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)
    assert picture(bench, "a") == first
    resident = bench.engine.cache.get("a")
    assert resident is not None and bench.engine.device.gauge().used == resident.bytes


@pytest.mark.parametrize("ram", [0, 1, 2])
@pytest.mark.parametrize("vram", [1, 2, 3])
@pytest.mark.parametrize("count", [4])
def test_every_picture_is_its_models_first(models: tuple[Path, int], count: int, vram: int, ram: int) -> None:
    seed = 100 * count + 10 * vram + ram
    chance = random.Random(seed)
    bench = bench_for(models, vram, ram)
    size = models[1]
    first: dict[str, bytes] = {}
    for _ in range(10):
        name = chance.choice(NAMES[:count])
        act = chance.choice(("draw", "draw", "load", "unload", "clear", "pin", "unpin", "force"))
        if act == "draw":
            outcome = bench.run(draw(name), name)
            if isinstance(outcome.reply, GenerateReply):
                assert outcome.attachments[0] == first.setdefault(name, outcome.attachments[0]), f"seed {seed}: {name}"
            else:
                _only_pins_refuse(bench, outcome.reply.error.code if outcome.reply.error else None)
        elif act in ("load", "force"):
            reply = bench.run(c.LoadModel(model_id=name, force=act == "force"), name).reply
            if reply.error is not None:
                _only_pins_refuse(bench, reply.error.code)
        elif act in ("unload", "clear"):
            bench.run(c.UnloadModel(model_id=name, clear_cache=act == "clear"), name)
        else:
            bench.engine.cache.pin(name, pinned=act == "pin")
        _check_books(bench, size, vram, ram)


def _only_pins_refuse(bench: Bench, code: ErrorCode | None) -> None:
    assert code is ErrorCode.INSUFFICIENT_MEMORY
    assert any(resident.pinned for resident in bench.engine.cache.held(Tier.VRAM))


def _check_books(bench: Bench, size: int, vram: int, ram: int) -> None:
    """What is said to be there is there, shared parts once, and no more than there may be."""
    cache = bench.engine.cache
    on_device = cache.held(Tier.VRAM)
    parts = {part.key: part.bytes for resident in on_device for part in resident.built.parts}
    assert bench.engine.device.gauge().used == sum(parts.values()) <= vram * size + SLACK_BYTES
    assert not on_device or sum(parts.values()) >= size
    assert bench.engine.ram.used_bytes <= ram * (size + TABLE_BYTES)
    for resident in (*on_device, *cache.held(Tier.RAM)):
        assert isinstance(resident.built, TorchModel)
        assert resident.built._pipelines.components, f"{resident.model_id} is held without its weights"
        assert not (resident.holds or resident.leaving or resident.sessions)


def test_a_load_that_cannot_be_placed_leaves_the_old_one_drawing(
    models: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = bench_for(models, vram=1, ram=0)
    first = picture(bench, "a")
    assert bench.engine.cache.pin("a", pinned=True) is not None
    old = bench.engine.cache.get("a")
    place = bench.engine.device.place  # type: ignore[attr-defined]

    def refuse_the_new_one(components: list[Component]) -> None:
        if old is not None and isinstance(old.built, TorchModel) and components != old.built._holding.all:
            raise Fault(ErrorCode.CANCELLED, "stopped while it was placed")
        place(components)

    monkeypatch.setattr(bench.engine.device, "place", refuse_the_new_one)
    path = models[0] / "a/unet/diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-2] + b"\0\0")
    error = bench.error(c.LoadModel(model_id="a", force=True), "a")
    path.write_bytes(whole)
    assert error.code is ErrorCode.CANCELLED
    kept = bench.engine.cache.get("a")
    assert kept is old and kept is not None and kept.pinned and kept.tier is Tier.VRAM
    assert picture(bench, "a") == first


def test_a_forced_load_needs_no_room_for_two_and_keeps_the_pin(models: tuple[Path, int]) -> None:
    bench = bench_for(models, vram=1, ram=0)
    first = picture(bench, "a")
    bench.engine.cache.pin("a", pinned=True)
    reply = bench.reply(LoadModelReply, c.LoadModel(model_id="a", force=True), "a")
    assert reply.cache.source is LoadSource.DISK
    kept = bench.engine.cache.get("a")
    assert kept is not None and kept.pinned
    assert picture(bench, "a") == first


def test_a_pin_is_refused_for_a_model_that_is_on_its_way_out(models: tuple[Path, int]) -> None:
    bench = bench_for(models, vram=1, ram=1)
    picture(bench, "a")
    answers: list[object] = []
    resident = bench.engine.cache.get("a")
    assert resident is not None
    demote = resident.built.demote

    def pin_meanwhile() -> None:
        answers.append(bench.engine.cache.pin("a", pinned=True))
        demote()

    resident.built.demote = pin_meanwhile  # type: ignore[method-assign]
    bench.reply(LoadModelReply, c.LoadModel(model_id="b"), "b")
    assert answers == [None]
    assert resident.tier is Tier.RAM and not resident.pinned
