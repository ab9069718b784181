"""The catalogue over many models: searches, lists, updates with fsync and a scan of what has not changed.

`python -m bench.catalogue [--models 50000] [--rounds 300]`: files of a few hundred bytes with titles, descriptions,
tags and authors of chance words, one folder for each thousand; the catalogue in this process, its data on this disk.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from bench.record import Machine, machine, write
from catalog.catalogue import Catalogue
from catalog.sidecar import Sidecars
from catalog.store import Store
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.enums import HashDepth, ModelSearchField, ModelType

SIGNS = {
    "lora": ["x.lora_down.weight"],
    "sd15": ["model.diffusion_model.input_blocks.0", "cond_stage_model.transformer.x"],
    "sdxl": ["model.diffusion_model.input_blocks.0", "conditioner.embedders.0.x"],
}
FEW = 1000


class Times(Struct, frozen=True, kw_only=True):
    """Milliseconds of so many calls."""

    count: int
    p50_ms: float
    p99_ms: float
    greatest_ms: float


class Result(Struct, frozen=True, kw_only=True):
    machine: Machine
    models: int
    first_scan_seconds: float
    unchanged_scan_seconds: float
    search_few: Times
    search_many: Times
    list_filtered: Times
    update: Times


def vocabulary(chance: random.Random, size: int) -> list[str]:
    """Words of two to four syllables."""
    syllables = [consonant + vowel for consonant in "bcdfghklmnprstvz" for vowel in "aeiou"]
    return ["".join(chance.choices(syllables, k=chance.randint(2, 4))) for _ in range(size)]


def make_models(folder: Path, count: int, chance: random.Random, words: list[str]) -> None:
    """Files without data: a header of empty tensors and metadata."""
    for number in range(count):
        kind = chance.choice(list(SIGNS))
        header: dict[str, object] = {
            name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for name in SIGNS[kind]
        }
        header["__metadata__"] = {
            "modelspec.title": " ".join(chance.choices(words, k=3)),
            "modelspec.description": " ".join(chance.choices(words, k=20)),
            "modelspec.tags": ",".join(chance.choices(words[:300], k=4)),
            "modelspec.author": chance.choice(words[:500]),
        }
        text = json.dumps(header).encode()
        within = folder / f"{number // 1000:03d}"
        within.mkdir(exist_ok=True)
        (within / f"{kind}-{number:06d}.safetensors").write_bytes(len(text).to_bytes(8, "little") + text)


def scan(catalogue: Catalogue) -> float:
    """A scan of all roots, in seconds."""
    began = time.perf_counter()
    running = catalogue.scan_models(c.ScanModels(hash=HashDepth.NONE))
    for _ in running.steps():
        pass
    catalogue.finish_scan(running)
    return time.perf_counter() - began


def timed(calls: list[Callable[[], object]]) -> Times:
    """Each call once."""
    times = []
    for call in calls:
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1000)
    times.sort()
    return Times(
        count=len(times),
        p50_ms=times[len(times) // 2],
        p99_ms=times[min(len(times) - 1, len(times) * 99 // 100)],
        greatest_ms=times[-1],
    )


def measure(folder: Path, count: int, rounds: int) -> Result:
    chance = random.Random(1)
    words = vocabulary(chance, 8000)
    before = machine()
    models = folder / "models"
    models.mkdir()
    make_models(models, count, chance, words)
    roots = Roots([models])
    catalogue = Catalogue(Store(folder / "data"), roots, Sidecars(folder / "data" / "sidecars", roots))
    first = scan(catalogue)
    unchanged = min(scan(catalogue) for _ in range(3))
    ids = [ref.model_id for ref in catalogue.refs()]

    def search(query: str) -> Callable[[], int]:
        command = c.SearchModels(query=query, search_fields=list(ModelSearchField))
        return lambda: catalogue.answer(command, "r").total_count  # type: ignore[attr-defined]

    queries = [chance.choice(words) for _ in range(rounds)] + [
        f"{chance.choice(words)} {chance.choice(words)[:4]}" for _ in range(rounds)
    ]
    few = [query for query in queries if search(query)() <= FEW]
    wide = [word[:2] for word in chance.sample(words, max(rounds // 10, 5))]
    wide = [query for query in wide if search(query)() > FEW]
    listing = c.ListModels(model_type=ModelType.SDXL, page_size=50)
    edits = [
        c.UpdateMetadata(model_id=chance.choice(ids), metadata={"rating": chance.randint(0, 5), "name": word})
        for word in chance.sample(words, rounds)
    ]
    return Result(
        machine=before,
        models=count,
        first_scan_seconds=first,
        unchanged_scan_seconds=unchanged,
        search_few=timed([search(query) for query in few]),
        search_many=timed([search(query) for query in wide]),
        list_filtered=timed([lambda: catalogue.answer(listing, "r")] * max(rounds // 10, 5)),
        update=timed([lambda edit=edit: catalogue.answer(edit, "r") for edit in edits]),  # type: ignore[misc]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vrambroker-bench-"))
    try:
        result = measure(folder, options.models, options.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{result.models} models: first scan {result.first_scan_seconds:.1f} s", end=", ")
    print(f"unchanged {result.unchanged_scan_seconds:.2f} s (target 2 s)")
    for name, target in (("search_few", 20), ("search_many", 150), ("list_filtered", 20), ("update", 10)):
        times: Times = getattr(result, name)
        line = f"{name:14} p50 {times.p50_ms:7.2f} ms  p99 {times.p99_ms:7.2f} ms  greatest {times.greatest_ms:7.2f} ms"
        print(f"{line}  {times.p99_ms / target:.2f} of the target of {target} ms ({times.count} calls)")
    print(write("catalogue", result))


if __name__ == "__main__":
    main()
