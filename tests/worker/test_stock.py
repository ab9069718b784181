"""What a load finds here already: it is not read again, it is the same model, and a load that fails takes nothing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelfiles.model import inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.enums import CoordinationMode, LoadingStrategy, LoadSource, ModelPrecision, Tier
from protocol.errors import ErrorCode
from protocol.link import Prefetch
from protocol.records import ModelLoadConfiguration
from protocol.replies import GenerateReply, LoadModelReply, UnloadModelReply
from ramtier.tier import SharedTier
from tests.ramtier.machine import Machine, machine_of
from tests.worker.bench import Bench, model_ref, worker_spec
from worker import identity
from worker.devices.base import Build
from worker.loading import read_ahead
from worker.prefetch import Full, Watch
from worker.reader import Reader

TIER_BYTES = 64 << 20
FOLDER, SINGLE = "folder", "tiny-sd15-single.safetensors"


@pytest.fixture
def root(model_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models that a test may change; a file has an identity at once."""
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)
    monkeypatch.setattr(identity, "SETTLED_SECONDS", -60.0)
    root = tmp_path / "models"
    shutil.copytree(model_root / "tiny-sd15", root / FOLDER)
    shutil.copytree(root / FOLDER, root / "linked", copy_function=os.link)
    shutil.copy(model_root / SINGLE, root / SINGLE)
    shutil.copytree(model_root / "tiny-sd15-single", root / "tiny-sd15-single")
    return root


@pytest.fixture
def machine() -> Iterator[Machine]:
    with machine_of(TIER_BYTES) as machine:
        yield machine


def worker(root: Path, tier: SharedTier) -> Bench:
    return Bench(root, worker_spec(root), ram=tier)


def load(bench: Bench, name: str, **fields: object) -> LoadModelReply:
    return bench.reply(LoadModelReply, c.LoadModel(model_id=name, **fields), name)  # type: ignore[arg-type]


def unload(bench: Bench, name: str, *, clear: bool = False) -> UnloadModelReply:
    return bench.reply(UnloadModelReply, c.UnloadModel(model_id=name, clear_cache=clear), name)


def picture(bench: Bench, name: str) -> bytes:
    outcome = bench.run(c.Generate(model_id=name, prompt="a boat", steps=1, seed=7, width=32, height=32), name)
    assert isinstance(outcome.reply, GenerateReply), outcome.reply.error
    return outcome.attachments[0]


def brought(machine: Machine, root: Path, name: str) -> tuple[Bench, SharedTier, bytes]:
    """A worker that has a model in the RAM tier alone, and what that draws."""
    tier = machine.worker()
    bench = worker(root, tier)
    first = picture(bench, name)
    unload(bench, name)
    assert tier.used_bytes
    return bench, tier, first


@pytest.mark.parametrize("name", [FOLDER, SINGLE])
@pytest.mark.parametrize("killed", [False, True])
def test_another_worker_finds_a_model_in_ram(
    machine: Machine, root: Path, name: str, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tier, first = brought(machine, root, name)
    if killed:
        machine.kill(tier)
    second = machine.worker()
    bench = worker(root, second)
    monkeypatch.setattr(Reader, "read", None)
    reply = load(bench, name)
    assert reply.cache is not None
    assert (reply.cache.source, reply.cache.page_cache_ratio) == (LoadSource.RAM, None)
    assert picture(bench, name) == first
    assert bench.engine.cache.listing()[0].tiers == [Tier.VRAM, Tier.RAM]


def test_the_last_that_holds_a_model_frees_it(machine: Machine, root: Path) -> None:
    first, tier, _ = brought(machine, root, FOLDER)
    used = tier.used_bytes
    second = worker(root, machine.worker())
    load(second, FOLDER)
    assert unload(first, FOLDER, clear=True).ram_freed == 0
    assert unload(second, FOLDER, clear=True).ram_freed == used
    assert machine.keeper.used_bytes == 0


def test_parts_of_the_same_files_are_not_read_for_a_second_model(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(root, worker_spec(root))
    first = load(bench, FOLDER)
    monkeypatch.setattr(Reader, "read", None)
    second = load(bench, "linked")
    assert second.cache is not None and first.cache is not None
    assert (first.cache.source, second.cache.source) == (LoadSource.DISK, LoadSource.VRAM)
    assert second.memory_added == 0 and picture(bench, "linked") == picture(bench, FOLDER)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"force": True}, "it is asked for anew"),
        ({"configuration": ModelLoadConfiguration(precision=ModelPrecision.BFloat16)}, "another precision"),
    ],
)
def test_what_is_wanted_otherwise_is_read(machine: Machine, root: Path, fields: dict[str, object], why: str) -> None:
    brought(machine, root, FOLDER)
    reply = load(worker(root, machine.worker()), FOLDER, **fields)
    assert reply.cache is not None and reply.cache.source is LoadSource.DISK, why


def test_a_changed_file_is_read_and_the_others_are_not(machine: Machine, root: Path) -> None:
    from safetensors.torch import load_file, save_file  # noqa: PLC0415

    _, _, first = brought(machine, root, FOLDER)
    path = next((root / FOLDER / "unet").glob("*.safetensors"))
    times = path.stat()
    tensors = {key: tensor * 0.5 for key, tensor in load_file(path).items()}
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    bench = worker(root, machine.worker())
    reply = load(bench, FOLDER)
    assert reply.cache is not None and reply.cache.source is LoadSource.DISK, "of several places the slowest"
    assert picture(bench, FOLDER) != first


def test_a_file_that_was_written_just_now_is_known_by_nothing(
    machine: Machine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = next((root / FOLDER / "vae").glob("*.safetensors"))
    age = time.time() - file.stat().st_ctime
    monkeypatch.setattr(identity, "SETTLED_SECONDS", age + 60)
    brought(machine, root, FOLDER)
    reply = load(worker(root, machine.worker()), FOLDER)
    assert reply.cache is not None and reply.cache.source is LoadSource.DISK
    made = inspect(str(root / FOLDER), Roots([root]))
    build = Build(file=made, precision=ModelPrecision.Float32, compute=ModelPrecision.Float32)
    assert identity.identity(int, {}, build, [file]) == ""
    monkeypatch.setattr(identity, "SETTLED_SECONDS", 0.0)
    assert identity.identity(int, {}, build, [file]) != ""


def test_a_load_that_fails_leaves_the_tier_as_it_was(
    machine: Machine, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, tier, first = brought(machine, root, FOLDER)
    machine.kill(tier)
    used = machine.keeper.used_bytes
    bench = worker(root, machine.worker())
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise MemoryError

        patch.setattr("worker.keeper.Keeper.promote", full)
        assert not bench.run(c.LoadModel(model_id=FOLDER), FOLDER).reply.success
    assert machine.keeper.used_bytes == used
    reply = load(bench, FOLDER)
    assert reply.cache is not None and reply.cache.source is LoadSource.RAM
    assert picture(bench, FOLDER) == first


def test_a_load_of_a_file_that_the_host_holds_keeps_no_copy(machine: Machine, root: Path) -> None:
    _, tier, _ = brought(machine, root, FOLDER)
    bench = worker(root, machine.worker())
    reply = load(bench, FOLDER, coordination_mode=CoordinationMode.RAM_TO_VRAM)
    assert reply.cache is not None and reply.cache.source is LoadSource.RAM, "what is there is not read from disk"
    assert bench.engine.cache.listing()[0].tiers == [Tier.VRAM]
    assert unload(bench, FOLDER).ram_freed == 0 and tier.used_bytes == machine.keeper.used_bytes


def test_a_tier_that_is_lost_is_an_empty_one(machine: Machine, root: Path) -> None:
    bench, tier, first = brought(machine, root, FOLDER)
    machine.kill(tier)
    bench.engine.idle()
    assert bench.engine.cache.listing() == []
    assert picture(bench, FOLDER) == first


def ahead(bench: Bench, name: str, **fields: object) -> None:
    """Read a model ahead, to the end."""
    bench.engine.prefetcher.want(Prefetch(model=model_ref(bench.root, name), **fields))  # type: ignore[arg-type]
    wait_idle(bench)


def wait_idle(bench: Bench) -> None:
    for _ in range(4000):
        if bench.engine.prefetcher.idle():
            return
        time.sleep(0.005)
    raise AssertionError("it is still read")


@pytest.mark.parametrize("name", [FOLDER, SINGLE])
def test_what_was_read_ahead_is_not_read_again(root: Path, machine: Machine, name: str) -> None:
    expected = picture(worker(root, machine.worker()), name)
    bench = worker(root, machine.worker())
    assert not bench.engine.device.components  # type: ignore[attr-defined]
    with machine_of(TIER_BYTES) as other:
        bench = worker(root, other.worker())
        ahead(bench, name)
        assert not bench.engine.cache.listing() and bench.engine.device.gauge().used == 0
        read_bytes = bench.engine.ram.used_bytes
        assert load(bench, name).cache.source is LoadSource.RAM
        assert picture(bench, name) == expected
        assert bench.engine.ram.used_bytes == read_bytes
        unload(bench, name)
        assert load(bench, name).cache.source is LoadSource.RAM
        assert picture(bench, name) == expected
        unload(bench, name, clear=True)
        assert other.keeper.used_bytes == 0


def test_in_another_precision_it_is_another_one(root: Path, machine: Machine) -> None:
    bench = worker(root, machine.worker())
    half = ModelLoadConfiguration(precision=ModelPrecision.BFloat16)
    ahead(bench, FOLDER, configuration=half)
    assert load(bench, FOLDER).cache.source is LoadSource.DISK
    assert load(bench, FOLDER, configuration=half).cache.source is LoadSource.RAM


def test_only_what_neither_the_device_nor_the_tier_has_is_read_ahead(root: Path, machine: Machine) -> None:
    bench = worker(root, machine.worker())
    load(bench, FOLDER)
    ahead(bench, "linked")
    assert machine.keeper.used_bytes == 0
    ahead(bench, SINGLE)
    found = machine.keeper.used_bytes
    assert found > 0
    ahead(bench, SINGLE)
    assert machine.keeper.used_bytes == found


def test_a_tier_without_room_takes_nothing_ahead(root: Path) -> None:
    with machine_of(1 << 10) as small:
        bench = worker(root, small.worker())
        ahead(bench, FOLDER)
        assert small.keeper.used_bytes == 0
        assert load(bench, FOLDER).cache.source is LoadSource.DISK


def test_a_file_that_changes_while_it_is_read_ahead_is_not_kept(
    root: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = worker(root, machine.worker())
    path = next((root / FOLDER / "unet").glob("*.safetensors"))
    read_all = Reader._read_all

    def read_and_touch(reader: Reader, pieces: list[Any]) -> None:
        read_all(reader, pieces)
        os.utime(path)

    monkeypatch.setattr(Reader, "_read_all", read_and_touch)
    ahead(bench, FOLDER)
    monkeypatch.undo()
    monkeypatch.setattr(identity, "SETTLED_SECONDS", -60.0)
    assert load(bench, FOLDER).cache.source is LoadSource.DISK
    assert picture(bench, FOLDER)


def test_a_model_that_cannot_be_read_ahead_ends_nothing(root: Path, machine: Machine) -> None:
    bench = worker(root, machine.worker())
    hint = Prefetch(model=model_ref(root, FOLDER))
    path = next((root / FOLDER / "unet").glob("*.safetensors"))
    path.write_bytes(path.read_bytes()[:5000])
    bench.engine.prefetcher.want(hint)
    ahead(bench, SINGLE)
    assert load(bench, SINGLE).cache.source is LoadSource.RAM and picture(bench, SINGLE)


def lazily(bench: Bench, name: str, **fields: object) -> LoadModelReply:
    return load(bench, name, loading_strategy=LoadingStrategy.LAZY, **fields)


def ignored(reply: LoadModelReply) -> str:
    assert reply.coordination is not None
    return " ".join(one.reason for one in reply.coordination.ignored if one.hint == "loading_strategy")


def test_a_lazy_load_takes_nothing_of_the_device_before_the_first_use(root: Path, machine: Machine) -> None:
    plain, bench = worker(root, machine.worker()), worker(root, machine.worker())
    reply = lazily(bench, FOLDER)
    assert (reply.memory_usage, reply.memory_added, reply.cache.source) == (0, 0, LoadSource.DISK)
    assert reply.memory.cache_memory_bytes > 0 and not ignored(reply)
    assert bench.engine.device.gauge().used == 0
    assert [one.tier for one in bench.engine.cache.listing()] == [Tier.RAM]
    again = lazily(bench, FOLDER)
    assert (again.memory_added, again.cache.source) == (0, LoadSource.RAM) and not ignored(again)
    assert picture(bench, FOLDER) == picture(plain, FOLDER)
    assert [one.tier for one in bench.engine.cache.listing()] == [Tier.VRAM]
    assert "on the device already" in ignored(lazily(bench, FOLDER))


def test_a_lazy_load_that_cannot_wait_says_why(root: Path, machine: Machine) -> None:
    bench = worker(root, machine.worker())
    pinned = lazily(bench, FOLDER, pin=True)
    assert pinned.memory_added > 0 and "pin" in ignored(pinned)
    anew = lazily(bench, FOLDER, force=True)
    assert "pin" in ignored(anew) and bench.engine.cache.listing()[0].pinned
    held = lazily(bench, SINGLE, coordination_mode=CoordinationMode.RAM_TO_VRAM)
    assert held.memory_usage > 0 and "host holds the file" in ignored(held)
    with machine_of(1 << 10) as small:
        bench = worker(root, small.worker())
        reply = lazily(bench, FOLDER)
        assert reply.memory_added > 0 and "no room" in ignored(reply)
        assert small.keeper.used_bytes == 0


def test_a_lazy_load_in_another_precision_replaces_the_one_on_the_device(root: Path, machine: Machine) -> None:
    bench = worker(root, machine.worker())
    load(bench, FOLDER)
    half = ModelLoadConfiguration(precision=ModelPrecision.BFloat16)
    reply = lazily(bench, FOLDER, configuration=half)
    assert reply.memory_added == 0 and bench.engine.device.gauge().used == 0
    (found,) = bench.engine.cache.listing()
    assert (found.tier, found.precision) == (Tier.RAM, ModelPrecision.BFloat16)
    assert picture(bench, FOLDER)
    unload(bench, FOLDER, clear=True)
    assert bench.engine.device.gauge().used == 0 and machine.keeper.used_bytes == 0


def test_a_model_larger_than_the_device_is_refused_however_lazy(root: Path, machine: Machine) -> None:
    bench = Bench(root, worker_spec(root, budget_bytes=1000), ram=machine.worker())
    command = c.LoadModel(model_id=FOLDER, loading_strategy=LoadingStrategy.LAZY)
    assert bench.error(command, FOLDER).code is ErrorCode.INSUFFICIENT_MEMORY
    assert not bench.engine.cache.listing() and machine.keeper.used_bytes == 0


@pytest.mark.parametrize("name", [FOLDER, SINGLE])
def test_a_reading_that_a_load_interrupts_goes_on_afterwards(
    root: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    bench = worker(root, machine.worker())
    began, gate = threading.Event(), threading.Event()
    read_all = Reader._read_all

    def slowly(reader: Reader, pieces: list[Any]) -> None:
        began.set()
        while not gate.wait(0.005):
            reader.check()
        read_all(reader, pieces)

    monkeypatch.setattr(Reader, "_read_all", slowly)
    prefetcher = bench.engine.prefetcher
    prefetcher.want(Prefetch(model=model_ref(root, name)))
    assert began.wait(60)
    with prefetcher.held_off("another", lambda: None):
        assert machine.keeper.used_bytes == 0
    gate.set()
    wait_idle(bench)
    assert load(bench, name).cache.source is LoadSource.RAM


def test_a_tier_that_is_full_in_the_end_is_no_fault_of_the_model(
    root: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = worker(root, machine.worker())
    monkeypatch.setattr(SharedTier, "reserve", lambda *_, **__: None)
    wish = Prefetch(model=model_ref(root, FOLDER))
    with pytest.raises(Full):
        read_ahead(bench.engine, wish, Watch(lambda: None, lambda: None))
