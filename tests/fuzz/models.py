"""Model folders as strangers might leave them: configurations with bad values, files bent, cut, swapped, gone.

Every mutation is of a small model that loads and draws; what becomes of it is a typed fault, or a picture.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from modelfiles.folders import CONFIG_FILES, INDEX
from modelfiles.model import ModelFile, Part, inspect
from modelfiles.paths import Roots
from protocol import commands as c
from protocol.enums import ModelPrecision, ModelStatus, ModelType
from protocol.errors import ErrorCode, Fault
from protocol.link import ModelRef
from ramtier.tier import PrivateTier
from tests.worker.bench import Bench, worker_spec
from worker import parts
from worker.components import Components
from worker.devices.base import Build
from worker.reader import Reader
from worker.staging import Staging
from worker.stock import Stock

BAD_VALUES: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 10**3, 10**6, 10**9, 10**15, 10**30, 2**31, 2**63, -(2**63)),
    *(0.0, -0.5, 0.1, 1e-300, 1e300, True, False, None),
    *("", "x", "none", "../../etc/passwd", "\x1b[2J", "ü" * 300, "1", "os.system"),
    *([], [0], [1], [None], [[]], ["x"], [1, 2, 3, 4, 5], [10**9], [-1] * 4, {}, {"a": 1}, {"x": [{}]}),
)
GROWTH_BYTES = 256 << 20
"""What one process may come to hold for spoilt copies of a model of some megabytes."""

REFUSALS = frozenset({ErrorCode.MODEL_INCOMPATIBLE, ErrorCode.MODEL_CORRUPTED, ErrorCode.UNSAFE_MODEL})


class Copies:
    """Copies of one model folder to spoil: each has the original's files as links, and its own where it changes one."""

    def __init__(self, original: Path, scratch: Path) -> None:
        self.original = original
        self.folder = scratch / "models"
        self.runtime = scratch / "runtime"
        self.roots = Roots([self.folder])
        self.model = self.folder / original.name
        self._configs = [original / INDEX, *(p for name in CONFIG_FILES for p in sorted(original.glob(f"*/{name}")))]

    def fresh(self) -> Path:
        """The model as it was, anew."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.original, self.model, copy_function=os.link)
        return self.model

    def keys(self) -> list[tuple[Path, str]]:
        """Every (configuration, key), the path within the model."""
        return [
            (path.relative_to(self.original), key) for path in self._configs for key in json.loads(path.read_text())
        ]

    def write(self, path: Path, content: bytes) -> None:
        """A file of the copy, without touching the original that it is a link to."""
        target = self.model / path
        target.unlink(missing_ok=True)
        target.write_bytes(content)

    def set(self, path: Path, key: str, value: Any) -> None:
        """One value of one configuration."""
        config = json.loads((self.original / path).read_text())
        self.write(path, json.dumps({**config, key: value}).encode())

    def load(self, only: str = "") -> None:
        """Check the model, and build its parts (or the one of this name) in host memory. Raises Fault."""
        file = inspect(self.model, self.roots)
        with Staging(self.runtime, "cpu:0", file.fingerprints) as staging:
            for part in file.parts:
                if not only or part.name == only:
                    self._build(file, part, staging)
            staging.verify()

    def _build(self, file: ModelFile, part: Part, staging: Staging) -> None:
        build = Build(file=file, precision=ModelPrecision.Float32, compute=ModelPrecision.Float32)
        ram = PrivateTier(0)
        stock = Stock(Components(ram), ram, Reader(lambda: None, lambda _: None), usable=False)
        parts.build_part(part, staging.folder(part.name, part.reads), build, stock)


def fuzz_values(original: Path, seed: int, count: int) -> Counter[str]:
    """Bad values in every key of every configuration in turn; what became of each, by code ("" where it can be built).

    A refusal names the key, or the tensor that its configuration asks for in vain.
    """
    torch.set_num_threads(1)
    chance = random.Random(seed)
    codes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=original.parent.parent) as scratch:
        copies = Copies(original, Path(scratch))
        for path, key in _in_turn(copies.keys(), count, chance):
            value = chance.choice(BAD_VALUES)
            copies.fresh()
            copies.set(path, key, value)
            codes[_outcome_of_value(copies, path, f"{path} {key} = {value!r:.60} (seed {seed})")] += 1
    return codes


def _outcome_of_value(copies: Copies, path: Path, case: str) -> str:
    code, fault = outcome(copies, path.parts[0] if len(path.parts) > 1 else "", case)
    if fault is not None and fault.code is ErrorCode.MODEL_INCOMPATIBLE:
        told = {"key", "tensor", "part"} & set(fault.info.details)
        assert told, f"{case}: names neither key nor tensor: {fault}"
    return code


def outcome(copies: Copies, part: str, case: str) -> tuple[str, Fault | None]:
    """The code with which a model is refused, "" where it can be built; anything else is a failure that names it."""
    try:
        copies.load(part)
    except Fault as fault:
        assert fault.code in REFUSALS, f"{case}: {fault.code.value}: {fault}"
        assert fault.info.message and len(fault.info.message) < 1000, case
        return fault.code.value, fault
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    return "", None


def _in_turn(keys: list[tuple[Path, str]], count: int, chance: random.Random) -> Iterator[tuple[Path, str]]:
    """Every key as often as any other, in an order of chance."""
    for at in range(count):
        if at % len(keys) == 0:
            chance.shuffle(keys)
        yield keys[at % len(keys)]


class Spoiler:
    """Ways to spoil a copy as strangers, accidents and attackers do; each answers what it did, in words."""

    def __init__(self, copies: Copies, chance: random.Random) -> None:
        self._copies = copies
        self._chance = chance
        self._keys = copies.keys()
        every = sorted(path.relative_to(copies.original) for path in copies.original.rglob("*") if path.is_file())
        self._files = every
        self._weights = [path for path in every if path.suffix == ".safetensors"]
        self._ways = (
            *(self.value,) * 4,
            *(self.bent_header,) * 3,
            self.bent_text,
            self.cut,
            self.gone,
            self.swapped,
            self.linked,
            self.special,
            self.moved_part,
        )

    def spoil(self) -> str:
        """A fresh copy, spoilt in one to three ways."""
        self._copies.fresh()
        return ", ".join(self._chance.choice(self._ways)() for _ in range(self._chance.choice((1, 1, 1, 2, 3))))

    def value(self) -> str:
        path, key = self._chance.choice(self._keys)
        value = self._chance.choice(BAD_VALUES)
        if not self._whole(path):
            return "nothing"
        self._copies.set(path, key, value)
        return f"{path} {key} = {value!r:.40}"

    def bent_header(self) -> str:
        """Bytes of a header, or of its length."""
        path = self._chance.choice(self._weights)
        if not self._whole(path):
            return "nothing"
        data = bytearray((self._copies.original / path).read_bytes())
        length = int.from_bytes(data[:8], "little") + 8
        places = [self._chance.randrange(8 if self._chance.random() < 0.2 else length) for _ in range(3)]
        for at in places:
            data[at] = self._chance.randrange(256)
        self._copies.write(path, bytes(data))
        return f"{path} bent at {places}"

    def bent_text(self) -> str:
        """Bytes of a vocabulary or a configuration."""
        path = self._chance.choice([file for file in self._files if file not in self._weights])
        if not self._whole(path):
            return "nothing"
        data = bytearray((self._copies.original / path).read_bytes())
        places = [self._chance.randrange(len(data)) for _ in range(self._chance.randint(1, 6))] if data else []
        for at in places:
            data[at] = self._chance.choice((0, 34, 44, 58, 91, 93, 123, 125, 255, self._chance.randrange(256)))
        self._copies.write(path, bytes(data))
        return f"{path} bent at {places}"

    def cut(self) -> str:
        path = self._chance.choice(self._files)
        if not self._whole(path):
            return "nothing"
        data = (self._copies.original / path).read_bytes()
        size = self._chance.choice((0, 1, 7, 8, len(data) // 2, max(len(data) - 1, 0)))
        self._copies.write(path, data[:size])
        return f"{path} cut to {size}"

    def gone(self) -> str:
        path = self._chance.choice(self._files)
        (self._copies.model / path).unlink(missing_ok=True)
        return f"{path} gone"

    def swapped(self) -> str:
        """One file in the place of another."""
        path, other = self._chance.choice(self._files), self._chance.choice(self._files)
        if not self._whole(path):
            return "nothing"
        self._copies.write(path, (self._copies.original / other).read_bytes())
        return f"{path} holds {other}"

    def linked(self) -> str:
        """A link to elsewhere: out of the roots, to itself, to nothing, or to where it belongs."""
        path = self._chance.choice(self._files)
        target = self._copies.model / path
        if not self._whole(path):
            return "nothing"
        where = self._chance.choice(
            ("/etc/passwd", "/dev/zero", target.name, "nothing", str(self._copies.original / path))
        )
        target.unlink()
        target.symlink_to(where)
        return f"{path} links to {where}"

    def special(self) -> str:
        """A folder, a pipe, a program or a file of a size that it has not got."""
        path = self._chance.choice(self._files)
        target = self._copies.model / path
        if not self._whole(path):
            return "nothing"
        kind = self._chance.choice(("folder", "pipe", "program", "sparse"))
        if kind == "program":
            (target.parent / "code.py").write_text("raise SystemExit")
            return f"{path.parent} has a program"
        target.unlink()
        if kind == "folder":
            target.mkdir()
        elif kind == "pipe":
            os.mkfifo(target)
        else:
            with target.open("wb") as file:
                file.write((1 << 26).to_bytes(8, "little") + b"{")
                file.truncate(20 << 30)
        return f"{path} is a {kind}"

    def moved_part(self) -> str:
        """The folder of one part in the place of another's."""
        parts = sorted(path.name for path in self._copies.original.iterdir() if path.is_dir())
        to, from_ = self._chance.choice(parts), self._chance.choice(parts)
        shutil.rmtree(self._copies.model / to)
        shutil.copytree(self._copies.original / from_, self._copies.model / to, copy_function=os.link)
        return f"{to} is {from_}"

    def _whole(self, path: Path) -> bool:
        """Whether nothing has happened to a file yet."""
        target = self._copies.model / path
        return target.is_file() and not target.is_symlink()


def fuzz_folders(original: Path, seed: int, count: int) -> Counter[str]:
    """Whole folders, spoilt; those that load draw a picture. What became of each, by code."""
    torch.set_num_threads(1)
    codes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(dir=original.parent.parent) as scratch:
        copies = Copies(original, Path(scratch))
        spoiler, drawer = Spoiler(copies, random.Random(seed)), Drawer(copies)
        copies.fresh()
        assert drawer.draw("the model itself") == "drawn"
        before = peak_bytes()
        for number in range(count):
            case = f"case {number} of seed {seed}: {spoiler.spoil()}"
            code, _ = outcome(copies, "", case)
            codes[code or drawer.draw(case)] += 1
            grown = peak_bytes() - before
            assert grown < GROWTH_BYTES, f"{case}: the process grew by {grown} bytes"
    return codes


def peak_bytes() -> int:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


ENDS = REFUSALS | {ErrorCode.INFERENCE_FAILED, ErrorCode.INSUFFICIENT_MEMORY, ErrorCode.INVALID_ARGUMENT}


class Drawer:
    """A cpu device that draws with whatever a copy has become."""

    def __init__(self, copies: Copies) -> None:
        spec = worker_spec(copies.folder, budget_bytes=256 << 20, runtime=str(copies.runtime))
        self._bench = Bench(copies.folder, spec)
        self._name = copies.model.name
        self._path = str(copies.model)

    def draw(self, case: str) -> str:
        """One picture of 64 x 64: the code with which it is refused, "drawn" where it is not."""
        ref = ModelRef(
            model_id=self._name, path=self._path, type=ModelType.SD15, size_bytes=1, status=ModelStatus.Available
        )
        command = c.Generate(model_id=self._name, prompt="a boat", steps=1, seed=1, width=64, height=64)
        reply = self._bench.run(command, model=ref).reply
        self._bench.run(c.UnloadModel(model_id=self._name, clear_cache=True), model=ref)
        assert not self._bench.engine.fatal, case
        if reply.error is None:
            return "drawn"
        assert reply.error.code in ENDS, f"{case}: {reply.error.code.value}: {reply.error.message}"
        return reply.error.code.value
