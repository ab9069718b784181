"""Files beneath the roots and in the data folder that are not as they should be: each is its own trouble alone."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catalog.changes import Names
from catalog.database import FILE_NAME
from catalog.entry import Entry
from catalog.newcomers import Newcomers
from catalog.scan import Scan
from catalog.sidecar import Sidecars
from catalog.store import Store
from modelfiles.model import ModelFile
from modelfiles.paths import Roots
from protocol.enums import HashDepth, ModelStatus
from protocol.errors import ErrorCode
from settings.damage import DAMAGED

GOOD = {"family": "SDXL", "bytes": 100, "load_ms": 1, "step_ms": 1, "peak_bytes": 100, "components": {"unet": 100}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    root.mkdir()
    (root / "good.vmodel.json").write_text(json.dumps(GOOD))
    return root


def newcomers(store: Store, roots: Roots) -> Callable[[ModelFile, Names], Entry]:
    return Newcomers(store, roots, Sidecars(roots.folders[0] / "spare", roots)).entry_of


def scanned(root: Path, data: Path) -> tuple[list[str], dict[str, ErrorCode]]:
    """The ids known after a scan, and what was rejected; the store is read again from disk."""
    roots = Roots([root])
    store = Store(data)
    scan = Scan(store, roots, roots.folders, HashDepth.FAST, newcomers(store, roots))
    for _ in scan.steps():
        pass
    store.close()
    again = Store(data)
    ids = sorted(again.entries)
    again.close()
    return ids, {Path(one.path).name: one.code for one in scan.outcome.rejected}


def safetensors(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def surrogate_tensor(root: Path) -> str:
    safetensors(root / "bad.safetensors", b'{"a\\ud83d":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}')
    return "bad.safetensors"


def surrogate_profile(root: Path) -> str:
    (root / "bad.vmodel.json").write_text(json.dumps(GOOD | {"components": {"un\ud83det": 100}}))
    return "bad.vmodel.json"


def surrogate_index(root: Path) -> str:
    (root / "bad").mkdir()
    (root / "bad/model_index.json").write_text('{"_class_name":"StableDiffusionPipeline","un\\ud83det":["x","y"]}')
    (root / "bad/w.safetensors").write_bytes(b"x")
    return "bad"


def huge_shape(root: Path) -> str:
    header = {"a": {"dtype": "F32", "shape": [2**61] * 20, "data_offsets": [0, 4]}}
    safetensors(root / "bad.safetensors", json.dumps(header).encode())
    return "bad.safetensors"


def huge_number(root: Path) -> str:
    (root / "bad.vmodel.json").write_text(json.dumps(GOOD | {"components": {"unet": 10**30}}))
    return "bad.vmodel.json"


def pipeline(root: Path, config: str) -> str:
    (root / "bad/unet").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "unet": ["diffusers", "UNet2DConditionModel"]}
    (root / "bad/model_index.json").write_text(json.dumps(index))
    (root / "bad/unet/config.json").write_text(config)
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    safetensors(root / "bad/unet/diffusion_pytorch_model.safetensors", header)
    return "bad"


def odd_attention(root: Path) -> str:
    return pipeline(root, '{"attn_implementation": {"text_config": "sdpa"}}')


def nested_configuration(root: Path) -> str:
    return pipeline(root, '{"x": ' + "[" * 100_000 + "]" * 100_000 + "}")


def unspeakable_name(root: Path) -> str:
    Path(os.fsdecode(os.fsencode(root) + b"/bad\xff.safetensors")).write_bytes(b"x")
    return "bad\\xff.safetensors"


def loop(root: Path) -> str:
    (root / "bad.safetensors").symlink_to(root / "bad.safetensors")
    return "bad.safetensors"


BAD = [
    surrogate_tensor,
    surrogate_profile,
    surrogate_index,
    huge_shape,
    huge_number,
    odd_attention,
    nested_configuration,
    unspeakable_name,
    loop,
]


@pytest.mark.parametrize("make", BAD, ids=lambda make: make.__name__)
def test_a_bad_file_is_rejected_by_itself_and_every_other_model_is_known(
    make: object, root: Path, tmp_path: Path
) -> None:
    name = make(root)  # type: ignore[operator]
    ids, rejected = scanned(root, tmp_path / "data")
    assert ids == ["good"]
    assert rejected[name] in (ErrorCode.MODEL_CORRUPTED, ErrorCode.UNSAFE_MODEL)


def test_half_a_letter_in_metadata_is_replaced_and_the_model_listed(root: Path, tmp_path: Path) -> None:
    header = b'{"__metadata__":{"modelspec.title":"cat \\ud83d"},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    safetensors(root / "cat.safetensors", header)
    ids, rejected = scanned(root, tmp_path / "data")
    assert (ids, rejected) == (["cat", "good"], {})


DEPTH = 1000


@pytest.fixture
def abyss(root: Path) -> Iterator[Path]:
    """A root with folders nested a thousand deep, a link back to the root at the bottom of them."""
    here = Path.cwd()
    os.chdir(root)
    for _ in range(DEPTH):
        Path("d").mkdir()
        os.chdir("d")
    Path("again").symlink_to(root)
    bottom = os.open(".", os.O_RDONLY)
    os.chdir(here)
    yield root
    os.chdir(bottom)
    os.close(bottom)
    Path("again").unlink()
    for _ in range(DEPTH):
        os.chdir("..")
        Path("d").rmdir()
    os.chdir(here)


def test_folders_nested_a_thousand_deep_and_loops_of_links_end(abyss: Path, tmp_path: Path) -> None:
    (abyss / "nowhere").symlink_to(abyss / "is not there")
    ids, _ = scanned(abyss, tmp_path / "data")
    assert ids == ["good"]


@pytest.fixture
def data(root: Path, tmp_path: Path) -> Path:
    """A data folder with a catalogue in it."""
    assert scanned(root, tmp_path / "data")[0] == ["good"]
    return tmp_path / "data"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garbage(path: Path) -> None:
    path.write_bytes(b"garbage" * 1000)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for at in range(100, len(content), 997):
        content[at] ^= 0x55
    path.write_bytes(content)


def newer(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def tables_gone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE models")
    db.close()


@pytest.mark.parametrize("damage", [cut, garbage, flip, newer, tables_gone], ids=lambda damage: damage.__name__)
def test_a_damaged_catalogue_is_set_aside_and_rebuilt_from_the_roots(damage: object, root: Path, data: Path) -> None:
    damage(data / FILE_NAME)  # type: ignore[operator]
    assert scanned(root, data)[0] == ["good"]
    assert (data / f"{FILE_NAME}{DAMAGED}").exists()


def test_a_record_that_cannot_be_read_costs_itself_alone(root: Path, data: Path) -> None:
    (root / "other.vmodel.json").write_text(json.dumps(GOOD))
    assert scanned(root, data)[0] == ["good", "other"]
    with sqlite3.connect(data / FILE_NAME) as db:
        db.execute("UPDATE models SET entry = '{\"id\": 7}' WHERE id = 'good'")
    db.close()
    store = Store(data)
    assert [(entry.id, entry.status) for entry in store.entries.values()] == [
        ("good", ModelStatus.Error),
        ("other", ModelStatus.Available),
    ]
    store.close()
    assert scanned(root, data)[0] == ["good", "other"]
    store = Store(data)
    assert {entry.status for entry in store.entries.values()} == {ModelStatus.Available}
    store.close()


def test_a_folder_that_can_hold_nothing_costs_durability_alone(root: Path, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in the way")
    store = Store(tmp_path / "data")
    roots = Roots([root])
    for _ in Scan(store, roots, roots.folders, HashDepth.NONE, newcomers(store, roots)).steps():
        pass
    assert list(store.entries) == ["good"]
    store.close()


def test_a_disk_that_takes_nothing_now_is_tried_again(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "data")
    with sqlite3.connect(tmp_path / "data" / FILE_NAME, isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        store._db.execute("PRAGMA busy_timeout = 0")
        roots = Roots([root])
        for _ in Scan(store, roots, roots.folders, HashDepth.NONE, newcomers(store, roots)).steps():
            pass
        assert "locked" in store.commit()
        assert list(store.entries) == ["good"]
        other.execute("ROLLBACK")
    other.close()
    monkeypatch.setattr(store, "_retry_at", 0.0)
    assert store.commit() == ""
    store.close()
    again = Store(tmp_path / "data")
    assert list(again.entries) == ["good"]
    again.close()


def test_a_model_that_no_root_contains_any_more_is_missing(root: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    store, roots = Store(data), Roots([tmp_path / "elsewhere"])
    for _ in Scan(store, roots, roots.folders, HashDepth.NONE, newcomers(store, roots)).steps():
        pass
    assert store.entries["good"].status is ModelStatus.Missing
    store.close()
