"""Copies in the RAM tier between commands: whole or not at all, whatever becomes of the model meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocol import commands as c
from protocol.enums import CoordinationMode, LoadSource, Tier
from protocol.replies import GenerateReply, LoadModelReply, UnloadModelReply
from ramtier.tier import PrivateTier, SharedTier
from tests.ramtier.machine import Machine, machine_of
from tests.worker.bench import Bench, worker_spec
from worker import identity, weights

TIER_BYTES = 64 << 20
A, B = "a", "b"


@pytest.fixture(scope="module")
def root(model_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models that share everything but the UNet."""
    import torch  # noqa: PLC0415
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("copier")
    for name in (A, B):
        shutil.copytree(model_root / "tiny-sd15", root / name)
    path = next((root / B / "unet").glob("*.safetensors"))
    save_file({key: tensor * 0.9 for key, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    return root


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "CHUNK_BYTES", 1 << 18)
    monkeypatch.setattr(identity, "SETTLED_SECONDS", -60.0)


@pytest.fixture
def machine() -> Iterator[Machine]:
    with machine_of(TIER_BYTES) as machine:
        yield machine


def load(bench: Bench, name: str, **fields: object) -> LoadModelReply:
    return bench.reply(LoadModelReply, c.LoadModel(model_id=name, **fields), name)  # type: ignore[arg-type]


def picture(bench: Bench, name: str) -> bytes:
    outcome = bench.run(c.Generate(model_id=name, prompt="a boat", steps=1, seed=7, width=32, height=32), name)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


def tiers(bench: Bench, name: str) -> list[Tier]:
    return next(one.tiers for one in bench.engine.cache.listing() if one.model_id == name)


def steps(bench: Bench, most: int = 10_000) -> int:
    """Make steps until there is nothing to do, or so many of them; how many were made."""
    return next((done for done in range(most) if not bench.engine.copy_some()), most)


def test_a_model_on_the_device_gets_a_copy_and_a_killed_worker_s_is_found(machine: Machine, root: Path) -> None:
    tier = machine.worker()
    bench = Bench(root, worker_spec(root), ram=tier)
    first = picture(bench, A)
    assert tiers(bench, A) == [Tier.VRAM]
    assert steps(bench) > 3, "one step is a part of a copy"
    assert tiers(bench, A) == [Tier.VRAM, Tier.RAM]
    assert steps(bench) == 0 and bench.told.pop() == bench.engine.report(), "the copy is reported"
    machine.kill(tier)
    second = Bench(root, worker_spec(root), ram=machine.worker())
    assert load(second, A).cache.source is LoadSource.RAM  # type: ignore[union-attr]
    assert picture(second, A) == first


def test_a_private_tier_is_filled_by_what_leaves_alone(root: Path) -> None:
    bench = Bench(root, worker_spec(root), ram=PrivateTier(TIER_BYTES))
    load(bench, A)
    assert steps(bench) == 0 and bench.engine.ram.used_bytes == 0


@pytest.mark.parametrize("act", ["clear", "unload", "force", "draw", "shared"])
@pytest.mark.parametrize("half", [1, 3, 8])
def test_a_command_in_the_middle_of_a_copy(machine: Machine, root: Path, act: str, half: int) -> None:
    bench = Bench(root, worker_spec(root), ram=machine.worker())
    first = picture(bench, A)
    assert steps(bench, half) == half
    match act:
        case "clear" | "unload":
            bench.reply(UnloadModelReply, c.UnloadModel(model_id=A, clear_cache=act == "clear"), A)
        case "force":
            load(bench, A, force=True)
        case "draw":
            assert picture(bench, A) == first
        case "shared":
            load(bench, B)
            bench.reply(UnloadModelReply, c.UnloadModel(model_id=A, clear_cache=True), A)
    steps(bench)
    assert picture(bench, A) == first
    for name in [one.model_id for one in bench.engine.cache.listing()]:
        bench.reply(UnloadModelReply, c.UnloadModel(model_id=name, clear_cache=True), name)
    assert machine.keeper.used_bytes == 0


def test_nothing_is_driven_out_for_a_copy_between_commands(root: Path) -> None:
    bench = Bench(root, worker_spec(root), ram=PrivateTier(TIER_BYTES))
    load(bench, A)
    bench.reply(UnloadModelReply, c.UnloadModel(model_id=A), A)
    one = bench.engine.ram.used_bytes
    with machine_of(one) as small:
        first = Bench(root, worker_spec(root), ram=small.worker())
        second = Bench(root, worker_spec(root), ram=small.worker())
        load(first, A)
        steps(first)
        load(second, B)
        assert steps(second) == 1, "it is refused once, and not tried again for nothing"
        assert tiers(second, B) == [Tier.VRAM] and tiers(first, A) == [Tier.VRAM, Tier.RAM]
        first.reply(UnloadModelReply, c.UnloadModel(model_id=A, clear_cache=True), A)
        second.engine.idle()
        assert steps(second) > 1 and tiers(second, B) == [Tier.VRAM, Tier.RAM]


def test_a_file_that_the_host_holds_is_not_copied(machine: Machine, root: Path) -> None:
    bench = Bench(root, worker_spec(root), ram=machine.worker())
    load(bench, A, coordination_mode=CoordinationMode.RAM_TO_VRAM)
    assert steps(bench) == 0 and machine.keeper.used_bytes == 0


def test_a_copy_that_fails_is_not_tried_again_and_again(
    machine: Machine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(root, worker_spec(root), ram=machine.worker())
    first = picture(bench, A)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ramtier.blocks.Block.write", full)
        assert steps(bench) == 1
    assert machine.keeper.used_bytes == 0 and steps(bench) == 0
    assert picture(bench, A) == first


def test_a_worker_killed_in_the_middle_of_a_copy_leaves_no_part_of_it_on_its_way(machine: Machine, root: Path) -> None:
    tier: SharedTier = machine.worker()
    bench = Bench(root, worker_spec(root), ram=tier)
    load(bench, A)
    steps(bench, 3)
    machine.kill(tier)
    second = Bench(root, worker_spec(root), ram=machine.worker())
    load(second, A)
    steps(second)
    assert tiers(second, A) == [Tier.VRAM, Tier.RAM]
