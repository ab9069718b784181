"""Whether anything stays behind: models that take turns on a device too small for all, for hundreds of switches.

`python -m bench.switches [--switches 1000]`: three tiny real models, two of which share all but their UNets, on a cpu
device with room for one; each switch loads another one, which evicts, from disk or from a RAM tier for one. The bytes
that the device counts and the process's resident memory are told ten times; the first half is the warm-up.
"""

from __future__ import annotations

import argparse
import gc
import random
import shutil
import tempfile
from pathlib import Path

import psutil
from msgspec import Struct
from safetensors.torch import load_file, save_file

from bench.record import Machine, machine, write
from demo.models import make_models
from protocol import commands as c
from protocol.enums import Tier
from tests.worker.bench import Bench, worker_spec

NAMES = ("a", "b", "c")
SEED = 7
SLACK_BYTES = 1 << 16
TABLE_BYTES = 1 << 20
"""What the blocks of a model take in the RAM tier beyond its weights, at most."""

MODEL = "tiny-sd15"


class Sample(Struct, frozen=True, kw_only=True):
    """After so many switches: bytes on the device, of the RAM tier, components held, and resident bytes."""

    switches: int
    device_bytes: int
    ram_tier_bytes: int
    components: int
    rss_bytes: int


class Result(Struct, frozen=True, kw_only=True):
    """`growth_bytes`: of resident memory beside both tiers, in the second half; `model_bytes` of one model."""

    machine: Machine
    model_bytes: int
    samples: list[Sample]
    left: Sample
    growth_bytes: int
    growth_of_a_model: float


def make(root: Path) -> None:
    made = root.parent / "made"
    make_models(made, [MODEL])
    for number, name in enumerate(NAMES):
        shutil.copytree(made / MODEL, root / name)
        for path in (root / name).glob("*/*.safetensors" if number > 1 else "unet/*.safetensors"):
            tensors = {key: tensor * (1 - 0.1 * number) for key, tensor in load_file(path).items()}
            save_file(tensors, path, metadata={"format": "pt"})


def sample(bench: Bench, switches: int) -> Sample:
    gc.collect()
    return Sample(
        switches=switches,
        device_bytes=bench.engine.device.gauge().used,
        ram_tier_bytes=bench.engine.ram.used_bytes,
        components=len(bench.engine.device.components),  # type: ignore[attr-defined]
        rss_bytes=psutil.Process().memory_info().rss,
    )


def beside(one: Sample) -> int:
    """Resident memory without what the two tiers hold."""
    return one.rss_bytes - one.device_bytes - one.ram_tier_bytes


def switch(bench: Bench, name: str) -> None:
    outcome = bench.run(c.LoadModel(model_id=name), name)
    if not outcome.reply.success:
        raise SystemExit(str(outcome.reply.error))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--switches", type=int, default=1000)
    options = parser.parse_args()
    before, chance = machine(), random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="vrambroker-bench-") as folder:
        root = Path(folder) / "models"
        root.mkdir()
        make(root)
        first = Bench(root, worker_spec(root))
        switch(first, NAMES[0])
        size = first.engine.device.gauge().used
        bench = Bench(root, worker_spec(root, budget_bytes=size + SLACK_BYTES, ram_budget_bytes=size + TABLE_BYTES))
        samples, held = [], ""
        for done in range(1, options.switches + 1):
            held = chance.choice([name for name in NAMES if name != held])
            switch(bench, held)
            bench.told.clear()
            if done % max(1, options.switches // 10) == 0:
                samples.append(sample(bench, done))
                print(samples[-1])
        for tier in (Tier.VRAM, Tier.RAM):
            for resident in bench.engine.cache.held(tier):
                bench.run(c.UnloadModel(model_id=resident.model_id, clear_cache=True))
        left = sample(bench, options.switches)
    growth = beside(samples[-1]) - beside(samples[len(samples) // 2 - 1])
    result = Result(
        machine=before,
        model_bytes=size,
        samples=samples,
        left=left,
        growth_bytes=growth,
        growth_of_a_model=growth / size,
    )
    print(f"left: {left}")
    print(
        f"resident memory beside the tiers grew by {growth} bytes, {result.growth_of_a_model:.2f} of one model's {size}"
    )
    print(write("switches", result))


if __name__ == "__main__":
    main()
