"""Two workers of one machine in this process, in random order and with failures: what is where stays true throughout.

A `World` makes one random step after another from a seed. After each it checks the books of both devices and of the RAM
tier against what the workers hold, and every picture against the first of its model.

`python -m tests.worker.residency [--minutes 20] [--seed 1]`: worlds of every size from one seed after the other, and a
verdict; the log of what was done stands in the error.
"""

from __future__ import annotations

import argparse
import errno
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from protocol import commands as c
from protocol.enums import ComponentRole, CoordinationMode, LoadingStrategy, ModelPrecision, Tier
from protocol.errors import ErrorCode
from protocol.link import Prefetch
from protocol.records import ModelLoadConfiguration, ModelMemoryOptimization
from protocol.replies import GenerateReply, LoadModelReply
from tests.ramtier.machine import Machine, machine_of
from tests.worker.bench import Bench, model_ref, worker_spec
from worker import identity, weights
from worker.job import Job, Outcome

NAMES = ("a", "b", "c")
SLACK_BYTES = 1 << 16
TABLE_BYTES = 1 << 17
"""What the blocks of a model take in the RAM tier beyond its weights, at most."""

SIZES = tuple(itertools.product((1, 2), (0, 1, 2)))
"""Models that a device and the RAM tier have room for."""
EXPECTED = (ErrorCode.INSUFFICIENT_MEMORY, ErrorCode.CANCELLED)
FAILING = ("worker.weights.Arena", "ramtier.blocks.Block.write", "worker.reader.Reader._read_all")
STEPS = (
    *("draw", "draw", "load", "host", "lazy", "force", "unload", "clear"),
    *("pin", "unpin", "copy", "ahead", "kill", "fail", "cancel"),
    *("options", "options", "lora", "plain", "full"),
)
CONFIGURATIONS = (
    ModelLoadConfiguration(),
    ModelLoadConfiguration(precision=ModelPrecision.Int8),
    *(
        ModelLoadConfiguration(memory_optimization=ModelMemoryOptimization(**{name: True}))
        for name in ("enable_attention_slicing", "enable_cpu_offloading", "enable_model_splitting")
    ),
)
LORA = "style.safetensors"
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
TIGHT = 1e-6
"""A share of the device that holds no model."""

PATIENCE_SECONDS = 60.0


def make_models(source: Path, root: Path) -> None:
    """Three models of one size: a and b share all but their UNets, c shares nothing."""
    torch.set_num_threads(1)
    for name in NAMES:
        shutil.copytree(source, root / name)
    for name, pattern, factor in (("b", "unet/*.safetensors", 0.9), ("c", "*/*.safetensors", 0.8)):
        for path in (root / name).glob(pattern):
            save_file({key: one * factor for key, one in load_file(path).items()}, path, metadata={"format": "pt"})
    halves = {f"{LAYER}.lora_A.weight": torch.randn(2, 16) / 4, f"{LAYER}.lora_B.weight": torch.randn(16, 2) / 4}
    save_file(halves, root / LORA)


class World:
    """Two workers, `vram` and `ram` in models that they have room for, and what they are expected to draw."""

    def __init__(self, root: Path, machine: Machine, size: int, vram: int, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machine = machine
        self.root = root
        self.budget = vram * size + SLACK_BYTES
        self.log: list[str] = []
        self.first: dict[tuple[str, str, tuple[str, ...]], bytes] = {}
        self.workers = [self._worker(), self._worker()]

    def _worker(self) -> Bench:
        return Bench(self.root, worker_spec(self.root, budget_bytes=self.budget), ram=self.machine.worker())

    def step(self) -> None:
        """One random act of one worker, and every check."""
        number, act, name = self.chance.randrange(2), self.chance.choice(STEPS), self.chance.choice(NAMES)
        self.log.append(f"{number} {act} {name}")
        bench = self.workers[number]
        match act:
            case "draw":
                self._draw(bench, name)
            case "load" | "force" | "host" | "lazy":
                mode = CoordinationMode.RAM_TO_VRAM if act == "host" else None
                strategy = LoadingStrategy.LAZY if act == "lazy" else LoadingStrategy.DEFAULT
                force = act == "force"
                command = c.LoadModel(model_id=name, force=force, coordination_mode=mode, loading_strategy=strategy)
                self._accept(bench.run(command, name))
            case "ahead":
                self._ahead(bench, name)
            case "unload" | "clear":
                self._accept(bench.run(c.UnloadModel(model_id=name, clear_cache=act == "clear"), name))
            case "pin" | "unpin":
                bench.engine.cache.pin(name, pinned=act == "pin")
            case "copy":
                for _ in range(self.chance.randrange(40)):
                    bench.engine.copy_some()
            case "kill":
                self.machine.kill(bench.engine.ram)  # type: ignore[arg-type]
                self.workers[number] = self._worker()
            case _:
                self._rarely(bench, act, name)
        for one in self.workers:
            one.engine.idle()
            one.told.clear()
        self.check()

    def _rarely(self, bench: Bench, act: str, name: str) -> None:
        """What goes wrong, and what changes how a model runs."""
        match act:
            case "fail":
                with self._failing():
                    self._accept(bench.run(c.LoadModel(model_id=name), name), failing=True)
            case "cancel":
                self._cancelled(bench, name)
            case "options":
                configuration = self.chance.choice(CONFIGURATIONS)
                self._accept(bench.run(c.LoadModel(model_id=name, configuration=configuration), name))
            case "lora":
                path = str(self.root / LORA)
                component = c.LoadComponent(model_id=name, component=ComponentRole.LORA, path=path)
                self._if_held(bench, name, component)
            case "plain":
                self._if_held(bench, name, c.UnloadComponent(model_id=name, component=ComponentRole.LORA))
            case "full":
                tight = ModelMemoryOptimization(memory_fraction=TIGHT)
                configuration = ModelLoadConfiguration(memory_optimization=tight)
                self._accept(bench.run(c.LoadModel(model_id=name, configuration=configuration), name))

    def _if_held(self, bench: Bench, name: str, command: c.LoadComponent | c.UnloadComponent) -> None:
        """A command about a part, which there is or not."""
        held = bench.engine.cache.get(name)
        error = bench.run(command, name).reply.error
        has = held is not None and (isinstance(command, c.LoadComponent) or bool(held.built.loras))
        assert error is None or not has or error.code in EXPECTED, f"{error}: {self.log}"

    def _ahead(self, bench: Bench, name: str) -> None:
        """A model is read ahead while another, or the same, is drawn with."""
        prefetcher = bench.engine.prefetcher
        prefetcher.want(Prefetch(model=model_ref(self.root, name)))
        self._draw(bench, self.chance.choice(NAMES))
        end = time.monotonic() + PATIENCE_SECONDS
        while not prefetcher.idle():
            assert time.monotonic() < end, f"{name} is read ahead for ever: {self.log}"
            time.sleep(0.005)

    def _draw(self, bench: Bench, name: str) -> None:
        command = c.Generate(model_id=name, prompt="a small boat", steps=1, seed=7, width=32, height=32)
        outcome = bench.run(command, name)
        self._accept(outcome)
        if isinstance(outcome.reply, GenerateReply):
            picture, held = outcome.attachments[0], bench.engine.cache.get(name)
            assert held is not None
            drawn = (name, held.resolved.precision.value, tuple(held.built.loras))
            assert self.first.setdefault(drawn, picture) == picture, f"another picture of {drawn}: {self.log}"

    def _cancelled(self, bench: Bench, name: str) -> None:
        """A load that is cancelled at its first, second, … word on how far it is."""
        after = self.chance.randrange(4)

        def cancel(job: Job, _: object) -> None:
            nonlocal after
            after -= 1
            if after < 0:
                job.cancel(ErrorCode.CANCELLED, "enough")

        self._accept(bench.run(c.LoadModel(model_id=name), name, on_progress=cancel))

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Something is refused from here on: memory for the device's weights, for a copy, or for reading."""
        what = self.chance.choice(
            ("worker.weights.Arena", "ramtier.blocks.Block.write", "worker.reader.Reader._read_all")
        )

        def refuse(*_: object) -> None:
            raise torch.OutOfMemoryError if "Arena" in what else OSError(errno.ENOMEM, "no memory is left")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(what, refuse)
            yield

    def _accept(self, outcome: Outcome, *, failing: bool = False) -> None:
        error = outcome.reply.error
        if error is None:
            return
        assert failing or error.code in EXPECTED, f"{error}: {self.log}"

    def check(self) -> None:
        """The books of the devices and of the tier."""
        why = str(self.log)
        table = self.machine.keeper._table
        assert table.used_bytes <= table.budget_bytes, why
        for bench in self.workers:
            cache = bench.engine.cache
            held = cache.held(Tier.VRAM)
            there = {key: size for one in held for key, size in one.placed.items()}
            waiting = [key for one in held if not one.placed for key in one.components]
            assert bench.engine.device.gauge().used == sum(there.values()), why
            components = bench.engine.device.components  # type: ignore[attr-defined]
            wanted = {key for one in [*held, *cache.held(Tier.RAM)] for key in one.components}
            assert {one.key for one in components._held} == wanted, why
            for one in components._held:
                assert one.empty is (one.key not in there and one.key not in waiting), why
                assert (one.placed > 0) is (one.key in there) and one.aside == waiting.count(one.key), why
            for resident in cache.held(Tier.RAM):
                assert not resident.pinned and resident.copied, why
                assert all(table.size_of(key) is not None for key in resident.built.keys), why
            for name in NAMES:
                found = cache.get(name)
                assert found is None or not (found.busy or found.leaving), why

    def end(self) -> None:
        """Everything is cleared: nothing is anywhere but what dead workers had."""
        for bench in self.workers:
            for name in NAMES:
                bench.engine.cache.pin(name, pinned=False)
                bench.run(c.UnloadModel(model_id=name, clear_cache=True), name)
            assert bench.engine.device.gauge().used == 0 and not bench.engine.cache.listing()
            assert not len(bench.engine.device.components)  # type: ignore[attr-defined]
        table = self.machine.keeper._table
        table.expire(float("inf"))
        assert table.used_bytes == 0, self.log


@contextmanager
def quick_copies() -> Iterator[None]:
    """Copies in small steps; files have an identity at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "CHUNK_BYTES", 1 << 18)
        patch.setattr(identity, "SETTLED_SECONDS", -60.0)
        yield


def model_bytes(root: Path) -> int:
    """Of each model on its device."""
    bench = Bench(root, worker_spec(root))
    return bench.reply(LoadModelReply, c.LoadModel(model_id=NAMES[0]), NAMES[0]).memory_usage


def live(root: Path, size: int, room: tuple[int, int], seed: int, steps: int) -> World:
    """A world from its beginning to its end; `room` as in `SIZES`. Raises AssertionError."""
    vram, ram = room
    with machine_of(ram * (size + TABLE_BYTES)) as machine:
        world = World(root, machine, size, vram, seed)
        for _ in range(steps):
            world.step()
        world.end()
    return world


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    from demo.models import make_models as make_demo  # noqa: PLC0415

    end, worlds, steps = time.monotonic() + options.minutes * 60, 0, 60
    with tempfile.TemporaryDirectory(prefix="vrambroker-residency-") as folder, quick_copies():
        make_demo(Path(folder) / "demo")
        root = Path(folder) / "models"
        make_models(Path(folder) / "demo" / "tiny-sd15", root)
        size = model_bytes(root)
        while time.monotonic() < end:
            seed, room = divmod(worlds, len(SIZES))
            live(root, size, SIZES[room], options.seed + seed, steps)
            worlds += 1
    told = f"passed: {worlds} worlds of {steps} steps, {options.minutes:g} minutes, from seed {options.seed}"
    sys.stdout.write(told + "\n")


if __name__ == "__main__":
    main()
