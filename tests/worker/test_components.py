"""Models that have equal parts share them: held once, counted once, on the device until the last one leaves."""

from __future__ import annotations

import errno
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from protocol import commands as c
from protocol.enums import ComponentType, Lane, LoadSource, ModelPrecision, Tier
from protocol.errors import ErrorCode, Fault
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, ListComponentsReply, LoadModelReply, UnloadModelReply
from ramtier.blocks import Block
from ramtier.tier import PrivateTier
from tests.worker.bench import Bench, worker_spec
from worker.components import Component, Components, equal, shared
from worker.devices.base import PartBytes

UNET = "unet/diffusion_pytorch_model.safetensors"
SLACK_BYTES = 1 << 16


class Sizes:
    """Bytes of the model, of its UNet, of what the two models share, and of blocks in the RAM tier."""

    def __init__(self, root: Path) -> None:
        bench = Bench(root, worker_spec(root))
        bench.reply(LoadModelReply, c.LoadModel(model_id="a"), "a")
        resident = bench.engine.cache.get("a")
        assert resident is not None
        self.all = resident.bytes
        self.unet = next(part.bytes for part in resident.built.parts if part.name == "unet")
        self.shared = self.all - self.unet
        blocks = {one.bytes: one.weights.bytes for one in held(bench)._held}
        self.unet_block, self.blocks = blocks[self.unet], sum(blocks.values())


@pytest.fixture(scope="module")
def root(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`a` and `b` have different UNets, and all else alike."""
    torch.set_num_threads(1)
    made = tmp_path_factory.mktemp("shared")
    for name, factor in (("a", 1.0), ("b", 0.9)):
        shutil.copytree(model_root / "tiny-sd15", made / name)
        tensors = {key: tensor * factor for key, tensor in load_file(made / name / UNET).items()}
        save_file(tensors, made / name / UNET, metadata={"format": "pt"})
    return made


@pytest.fixture(scope="module")
def sizes(root: Path) -> Sizes:
    return Sizes(root)


def load(bench: Bench, name: str) -> LoadModelReply:
    return bench.reply(LoadModelReply, c.LoadModel(model_id=name), name)


def unload(bench: Bench, name: str, *, clear: bool = False) -> UnloadModelReply:
    return bench.reply(UnloadModelReply, c.UnloadModel(model_id=name, clear_cache=clear), name)


def picture(bench: Bench, name: str) -> bytes:
    command = c.Generate(model_id=name, prompt="a small boat", steps=1, seed=7, width=32, height=32)
    outcome = bench.run(command, name)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


def held(bench: Bench) -> Components:
    found: Components = bench.engine.device.components  # type: ignore[attr-defined]
    return found


def test_a_second_model_takes_what_the_first_has_not(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    assert load(bench, "a").memory_added == sizes.all
    second = load(bench, "b")
    assert (second.memory_added, second.memory_usage) == (sizes.unet, sizes.all)
    assert bench.engine.device.gauge().used == sizes.all + sizes.unet


def test_who_shares_what_is_told(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    load(bench, "a")
    load(bench, "b")
    reply = bench.reply(ListComponentsReply, c.ListComponents(model_id="a"), "a", lane=Lane.CONTROL)
    told = {one.name: one.shared_with for one in reply.components}
    assert (told["unet"], told["vae"], told["text_encoder"]) == ([], ["b"], ["b"])
    reported = {one.name: one.shared_with for one in bench.engine.cache.listing()[1].components}
    assert (reported["unet"], reported["vae"], reported["tokenizer"]) == ([], ["a"], [])


def test_a_shared_part_stays_until_its_last_model_leaves(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    load(bench, "a")
    load(bench, "b")
    first = picture(bench, "b")
    assert unload(bench, "a", clear=True).memory_freed == sizes.unet
    assert picture(bench, "b") == first
    assert unload(bench, "b", clear=True).memory_freed == sizes.all
    assert (len(held(bench)), bench.engine.device.gauge().used) == (0, 0)


def test_what_a_model_shares_with_the_one_that_it_makes_room_for_stays(
    root: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(root, worker_spec(root, budget_bytes=sizes.all + SLACK_BYTES, ram_budget_bytes=0))
    load(bench, "a")
    left: list[int] = []
    displace = bench.engine.device.displace  # type: ignore[attr-defined]

    def noted(components: Sequence[Component], *, keep: bool) -> None:
        left.extend(one.bytes for one in components)
        displace(components, keep=keep)

    monkeypatch.setattr(bench.engine.device, "displace", noted)
    assert load(bench, "b").memory_added == sizes.unet
    assert left == [sizes.unet]
    assert [one.model_id for one in bench.engine.cache.listing()] == ["b"]


def test_another_precision_shares_nothing(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    load(bench, "a")
    half = ModelLoadConfiguration(precision=ModelPrecision.BFloat16)
    reply = bench.reply(LoadModelReply, c.LoadModel(model_id="b", configuration=half), "b")
    assert reply.memory_added == reply.memory_usage < sizes.all
    assert not any(part.shared_with for one in bench.engine.cache.listing() for part in one.components)


def test_the_ram_tier_has_each_part_once(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    load(bench, "a")
    load(bench, "b")
    unload(bench, "b")
    assert bench.engine.ram.used_bytes == sizes.blocks
    unload(bench, "a")
    assert bench.engine.ram.used_bytes == sizes.blocks + sizes.unet_block
    assert unload(bench, "a", clear=True).ram_freed == sizes.unet_block
    assert unload(bench, "b", clear=True).ram_freed == sizes.blocks
    assert (bench.engine.ram.used_bytes, len(held(bench))) == (0, 0)


def test_an_unload_out_of_both_tells_what_left_each(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    load(bench, "a")
    unload(bench, "a")
    load(bench, "a")
    assert bench.engine.cache.listing()[0].tiers == [Tier.VRAM, Tier.RAM]
    reply = unload(bench, "a", clear=True)
    assert (reply.memory_freed, reply.ram_freed, reply.cache_cleared) == (sizes.all, sizes.blocks, True)


@pytest.mark.parametrize(("spare", "kept"), [(0, True), (-1, False)])
def test_what_leaves_for_the_ram_tier_is_within_its_budget(root: Path, sizes: Sizes, spare: int, kept: bool) -> None:
    bench = Bench(root, worker_spec(root, ram_budget_bytes=sizes.blocks + spare))
    load(bench, "a")
    load(bench, "b")
    unload(bench, "b")
    unload(bench, "a", clear=True)
    listed = [(one.model_id, one.tier) for one in bench.engine.cache.listing()]
    assert listed == ([("b", Tier.RAM)] if kept else [])
    assert len(held(bench)) == (3 if kept else 0)
    assert bench.engine.ram.used_bytes == (sizes.blocks if kept else 0)


def test_a_model_that_does_not_fit_the_ram_tier_drives_nobody_out_of_it(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root, ram_budget_bytes=sizes.blocks))
    half = ModelLoadConfiguration(precision=ModelPrecision.BFloat16)
    bench.reply(LoadModelReply, c.LoadModel(model_id="b", configuration=half), "b")
    unload(bench, "b")
    bench.engine.ram._keeper._table.budget_bytes -= 1  # type: ignore[attr-defined]
    load(bench, "a")
    unload(bench, "a")
    assert [(one.model_id, one.tier) for one in bench.engine.cache.listing()] == [("b", Tier.RAM)]


def test_what_stands_aside_keeps_what_it_shares_with_a_model_that_leaves_meanwhile(
    root: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(root, worker_spec(root, budget_bytes=sizes.all, ram_budget_bytes=0))
    half, whole = (ModelLoadConfiguration(precision=one) for one in (ModelPrecision.BFloat16, ModelPrecision.Float32))
    for name in ("a", "b"):
        bench.reply(LoadModelReply, c.LoadModel(model_id=name, configuration=half), name)
    larger = c.LoadModel(model_id="a", configuration=whole)
    first, place = picture(bench, "a"), bench.engine.device.place  # type: ignore[attr-defined]
    refused: list[int] = []

    def refuse_the_larger(components: Sequence[Component]) -> None:
        if sum(one.bytes for one in components) == sizes.all:
            refused.append(len(bench.engine.cache.held(Tier.VRAM)))
            raise Fault(ErrorCode.CANCELLED, "stopped while it was placed")
        place(components)

    monkeypatch.setattr(bench.engine.device, "place", refuse_the_larger)
    assert bench.error(larger, "a").code is ErrorCode.CANCELLED
    assert refused == [0], "one stood aside, one had left"
    assert picture(bench, "a") == first
    assert [(one.model_id, one.tier) for one in bench.engine.cache.listing()] == [("a", Tier.VRAM)]


@pytest.mark.parametrize(("spare", "fits"), [(0, True), (-1, False)])
def test_a_larger_load_may_have_what_the_replaced_model_shares_with_one_that_may_leave(
    root: Path, sizes: Sizes, spare: int, fits: bool
) -> None:
    bench = Bench(root, worker_spec(root, budget_bytes=sizes.all + spare, ram_budget_bytes=0))
    half, whole = (ModelLoadConfiguration(precision=one) for one in (ModelPrecision.BFloat16, ModelPrecision.Float32))
    for name in ("a", "b"):
        bench.reply(LoadModelReply, c.LoadModel(model_id=name, configuration=half), name)
    reply = bench.run(c.LoadModel(model_id="a", configuration=whole), "a").reply
    assert reply.success is fits
    assert [one.model_id for one in bench.engine.cache.held(Tier.VRAM)] == (["a"] if fits else ["a", "b"])


def test_what_is_in_the_ram_tier_takes_no_memory_of_the_process(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    load(bench, "a")
    modules = [one.module for one in held(bench)._held]
    unload(bench, "a")
    assert not any(tensor.numel() for module in modules for tensor in module.state_dict().values())


def test_a_second_model_that_shares_with_one_in_the_ram_tier_brings_both_up(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    first = {name: picture(bench, name) for name in ("a", "b")}
    for name in ("a", "b"):
        unload(bench, name, clear=name == "b")
    assert load(bench, "b").memory_added == sizes.all
    assert len(held(bench)) == 4
    assert {name: picture(bench, name) for name in ("b", "a")} == first
    assert bench.engine.device.gauge().used == sizes.all + sizes.unet


def test_a_part_that_had_to_leave_takes_its_model_along(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root, ram_budget_bytes=sizes.blocks))
    first = picture(bench, "a")
    unload(bench, "a")
    half = ModelLoadConfiguration(precision=ModelPrecision.BFloat16)
    bench.reply(LoadModelReply, c.LoadModel(model_id="b", configuration=half), "b")
    unload(bench, "b")
    assert [(one.model_id, one.tier) for one in bench.engine.cache.listing()] == [("b", Tier.RAM)]
    assert ("a", "disk", "evicted: RAM tier full") in bench.moves()
    assert load(bench, "a").cache.source is LoadSource.DISK
    assert picture(bench, "a") == first


def test_a_part_that_left_unnoticed_is_read_from_disk(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root))
    first = picture(bench, "a")
    unload(bench, "a")
    bench.engine.ram.let_go([held(bench)._held[0].key])
    assert load(bench, "a").cache.source is LoadSource.DISK
    assert picture(bench, "a") == first
    assert bench.engine.device.gauge().used == sizes.all


def test_a_machine_without_memory_for_copies_goes_on_without_them(
    root: Path, sizes: Sizes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(root, worker_spec(root))
    write, left = Block.write, [3]

    def full(self: Block, offset: int, data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.ENOMEM, "no memory is left")
        write(self, offset, data)

    first = picture(bench, "a")
    monkeypatch.setattr(Block, "write", full)
    assert unload(bench, "a").memory_freed == sizes.all
    assert (bench.engine.ram.used_bytes, bench.engine.cache.listing(), len(held(bench))) == (0, [], 0)
    assert picture(bench, "a") == first


def test_random_moves_of_models_that_share_keep_the_books_and_the_pictures(root: Path, sizes: Sizes) -> None:
    for seed in range(4):
        chance = random.Random(seed)
        budget = chance.choice((sizes.all, sizes.all + sizes.unet)) + SLACK_BYTES
        ram = chance.choice((0, sizes.unet_block, sizes.blocks, 2 * sizes.blocks))
        bench = Bench(root, worker_spec(root, budget_bytes=budget, ram_budget_bytes=ram))
        first: dict[str, bytes] = {}
        for _ in range(12):
            name, act = chance.choice("ab"), chance.choice(("draw", "load", "force", "unload", "clear"))
            if act == "draw":
                drawn = picture(bench, name)
                assert drawn == first.setdefault(name, drawn), f"seed {seed}: {name}"
            elif act in ("load", "force"):
                bench.reply(LoadModelReply, c.LoadModel(model_id=name, force=act == "force"), name)
            else:
                unload(bench, name, clear=act == "clear")
            on_device = bench.engine.cache.held(Tier.VRAM)
            parts = {part.key: part.bytes for resident in on_device for part in resident.built.parts}
            assert bench.engine.device.gauge().used == sum(parts.values()), f"seed {seed}: {act} {name}"
            assert bench.engine.ram.used_bytes <= ram


def test_a_forced_load_beside_a_pinned_model_needs_no_room_for_what_they_share(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root, budget_bytes=sizes.all + sizes.unet + SLACK_BYTES, ram_budget_bytes=0))
    load(bench, "a")
    load(bench, "b")
    bench.engine.cache.pin("a", pinned=True)
    first = picture(bench, "b")
    bench.reply(LoadModelReply, c.LoadModel(model_id="b", force=True), "b")
    assert picture(bench, "b") == first
    assert bench.engine.device.gauge().used == sizes.all + sizes.unet


def test_a_replaced_model_takes_nothing_from_one_in_the_ram_tier(root: Path, sizes: Sizes) -> None:
    bench = Bench(root, worker_spec(root, ram_budget_bytes=sizes.blocks))
    first = picture(bench, "a")
    load(bench, "b")
    unload(bench, "a")
    half = ModelLoadConfiguration(precision=ModelPrecision.BFloat16)
    bench.reply(LoadModelReply, c.LoadModel(model_id="b", configuration=half), "b")
    assert bench.engine.ram.used_bytes == sizes.blocks
    assert load(bench, "a").cache.source is LoadSource.RAM
    assert picture(bench, "a") == first


def made(values: Sequence[float], dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    module = torch.nn.Linear(len(values), 1, bias=False)
    module.weight.data = torch.tensor([values], dtype=dtype)
    return module


def test_modules_are_equal_bit_by_bit() -> None:
    assert equal(made([1.0, float("nan")]), made([1.0, float("nan")]))
    assert not equal(made([0.0]), made([-0.0]))
    assert not equal(made([1.0]), made([1.0], torch.float16))
    assert not equal(made([1.0]), made([1.0, 1.0]))
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn):
        assert equal(made([0.5], dtype), made([0.5], dtype)) and not equal(made([0.5], dtype), made([1.0], dtype))


def test_one_bit_keeps_two_parts_apart(root: Path, tmp_path: Path, sizes: Sizes) -> None:
    for name in ("a", "b"):
        shutil.copytree(root / name, tmp_path / name)
    path = tmp_path / "b/vae/diffusion_pytorch_model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    bench = Bench(tmp_path, worker_spec(tmp_path))
    load(bench, "a")
    load(bench, "b")
    told = bench.engine.cache.listing()[0].components
    assert {one.name for one in told if one.shared_with} == {"text_encoder"}


def test_a_part_that_stands_in_two_places_is_held_once() -> None:
    held = Components(PrivateTier(0))
    parts = [PartBytes(name=name, type=ComponentType.TextEncoder, path="", bytes=4) for name in ("one", "two", "none")]
    modules = {"one": made([1.0]), "two": made([1.0]), "none": object()}
    found = shared(modules, parts, held)
    assert found["one"] is found["two"] and modules["two"] is modules["one"] and set(found) == {"one", "two"}
    assert len(held) == 1
    held.let_go(found["one"])
    assert len(held) == 0


def test_what_fails_half_way_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held, hold = Components(PrivateTier(0)), Components.hold

    def failing(self: Components, module: torch.nn.Module, size_bytes: int, key: str = "") -> Component:
        if size_bytes == 8:
            raise MemoryError
        return hold(self, module, size_bytes)

    monkeypatch.setattr(Components, "hold", failing)
    sizes = (("one", 4), ("two", 4), ("three", 8))
    parts = [PartBytes(name=name, type=ComponentType.TextEncoder, path="", bytes=size) for name, size in sizes]
    with pytest.raises(MemoryError):
        shared({"one": made([1.0]), "two": made([2.0]), "three": made([3.0, 1.0])}, parts, held)
    assert len(held) == 0


def test_what_a_coming_model_shares_with_one_that_leaves_the_ram_tier_for_it_stays(
    root: Path, sizes: Sizes, tmp_path: Path
) -> None:
    """To make room for b, c leaves for the RAM tier, and drives out a, with which b shares what it has just read."""
    models = tmp_path / "models"
    shutil.copytree(root, models)
    other = models / "c"
    shutil.copytree(models / "a", other)
    for path in other.glob("*/*.safetensors"):
        save_file({key: tensor * 0.8 for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    spec = worker_spec(models, budget_bytes=sizes.all + SLACK_BYTES, ram_budget_bytes=sizes.blocks)
    bench = Bench(models, spec)
    first = {name: picture(bench, name) for name in ("b", "a")}
    unload(bench, "b", clear=True)
    unload(bench, "a")
    load(bench, "c")
    assert picture(bench, "b") == first["b"]
    assert [one.model_id for one in bench.engine.cache.listing() if one.tier is Tier.RAM] == ["c"]
    assert picture(bench, "a") == first["a"]
