"""Whom a keys folder admits: files that change in any way, and all that is in doubt."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest

from settings import allowlist
from settings.allowlist import MOST_BYTES, AllowList, PublicKey, Role
from settings.file import ConfigError
from settings.keys import KeyFolder


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    made = KeyFolder(tmp_path / "data" / "keys")
    made.make("host", Role.CLIENT)
    made.make("ops", Role.ADMIN)
    return made


def names(found: allowlist.Admitted) -> list[str]:
    return [f"{key.name} {key.role.value}" for key in found.keys]


def write(path: Path, **changes: object) -> None:
    """Change an entry in place: the same file, of the same size where the roles have equal lengths."""
    entry = msgspec.json.decode(path.read_bytes(), type=PublicKey)
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(entry, **changes)))


def test_a_file_changed_in_place_is_seen_whatever_its_size_and_time(folder: KeyFolder) -> None:
    seen = AllowList(folder.path)
    path = folder.path / "ops.pub"
    write(path, role=Role.CLIENT)
    assert names(seen.read()) == ["host client", "ops client"]
    before = path.stat()
    write(path, role=Role.WORKER)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and path.stat().st_mtime_ns == before.st_mtime_ns
    assert names(seen.read()) == ["host client", "ops worker"]


def test_what_has_not_changed_is_not_read_again(folder: KeyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = AllowList(folder.path)
    monkeypatch.setattr(allowlist, "FRESH_NS", -1)
    first = seen.read()
    monkeypatch.setattr(allowlist, "read_entry", None)
    assert seen.read() == first


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o622])
def test_an_entry_that_others_may_write_admits_nobody_and_costs_only_itself(folder: KeyFolder, mode: int) -> None:
    (folder.path / "ops.pub").chmod(mode)
    found = AllowList(folder.path).read()
    assert names(found) == ["host client"] and not found.closed
    assert "ops.pub" in found.problems[0] and f"mode {mode:04o}" in found.problems[0]


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600, 0o444, 0o755])
def test_an_entry_that_others_may_only_read_is_admitted(folder: KeyFolder, mode: int) -> None:
    (folder.path / "ops.pub").chmod(mode)
    assert names(AllowList(folder.path).read()) == ["host client", "ops admin"]


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777, 0o1777, 0o770])
def test_a_folder_that_others_may_write_admits_nobody_until_it_is_mended(folder: KeyFolder, mode: int) -> None:
    seen = AllowList(folder.path)
    folder.path.chmod(mode)
    found = seen.read()
    assert found.closed and found.keys == [] and f"mode {mode:04o}" in found.problems[0]
    with pytest.raises(ConfigError, match=f"mode {mode:04o}"):
        folder.make("more", Role.CLIENT)
    for mended in (0o700, 0o755):
        folder.path.chmod(mended)
        assert names(seen.read()) == ["host client", "ops admin"]


def test_a_folder_in_one_that_all_may_write_admits_nobody(folder: KeyFolder) -> None:
    folder.path.parent.chmod(0o777)
    assert AllowList(folder.path).read().closed
    folder.path.parent.chmod(0o1777)
    assert names(AllowList(folder.path).read()) == ["host client", "ops admin"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_another_user_owns_admits_nobody(folder: KeyFolder) -> None:
    os.chown(folder.path / "ops.pub", 12345, 12345)
    found = AllowList(folder.path).read()
    assert names(found) == ["host client"] and "user 12345" in found.problems[0]
    os.chown(folder.path, 12345, 12345)
    assert AllowList(folder.path).read().closed


def test_a_folder_that_is_gone_admits_nobody_until_it_is_back(folder: KeyFolder) -> None:
    seen = AllowList(folder.path)
    away = folder.path.rename(folder.path.with_name("away"))
    found = seen.read()
    assert found.closed and found.keys == [] and "No such file" in found.problems[0]
    away.rename(folder.path)
    assert names(seen.read()) == ["host client", "ops admin"]


def test_no_kind_of_file_stops_the_others(folder: KeyFolder) -> None:
    path = folder.path
    os.mkfifo(path / "fifo.pub")
    (path / "folder.pub").mkdir()
    (path / "loop.pub").symlink_to("loop.pub")
    (path / "zero.pub").symlink_to("/dev/zero")
    (path / "gone.pub").symlink_to("nothing")
    (path / "nested.pub").write_text("[" * 60_000)
    (path / "large.pub").write_text(" " * (MOST_BYTES + 1))
    (path / "bytes.pub").write_bytes(b"\xff\xfe")
    Path(os.fsdecode(os.fsencode(path) + b"/\xff\x1b.pub")).write_text("{}")
    found = AllowList(path).read()
    assert names(found) == ["host client", "ops admin"] and len(found.problems) == 9


def test_the_greatest_entry_is_read_and_one_byte_more_is_not(folder: KeyFolder) -> None:
    path = folder.path / "ops.pub"
    text = path.read_bytes()
    path.write_bytes(text.ljust(MOST_BYTES))
    assert "ops admin" in names(AllowList(folder.path).read())
    path.write_bytes(text.ljust(MOST_BYTES + 1))
    assert names(AllowList(folder.path).read()) == ["host client"]
