"""Keys as files: what is written, who may read it, and what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq

from settings.allowlist import Admitted
from settings.config import load
from settings.file import ConfigError
from settings.keys import KeyFolder, Role, choose, hexadecimal, own_key, read_key, z85


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(tmp_path / "data" / "keys")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_key_is_the_same_in_hex_and_z85() -> None:
    for _ in range(50):
        public = zmq.curve_keypair()[0].decode()
        assert z85(hexadecimal(public)) == z85(public) == public
        assert z85(hexadecimal(public).upper()) == public
        assert len(bytes.fromhex(hexadecimal(public))) == 32


@pytest.mark.parametrize(
    "text", ["", "abc", "0" * 39, "0" * 41, "0" * 63, "g" * 64, "#" * 40, "é" * 40, "0" * 39 + "'"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no key"):
        z85(text)


def test_private_files_are_for_their_owner_alone(folder: KeyFolder) -> None:
    folder.make("host", Role.CLIENT)
    assert mode(folder.path) == 0o700
    assert {path.name: mode(path) for path in folder.path.glob("*.key")} == {"host.key": 0o600, "server.key": 0o600}


def test_a_private_file_that_others_can_read_is_refused(folder: KeyFolder) -> None:
    folder.make("host", Role.CLIENT)
    path = folder.path / "host.key"
    for wrong in (0o640, 0o604, 0o660):
        path.chmod(wrong)
        with pytest.raises(ConfigError, match=f"mode {wrong:04o}"):
            read_key(path)
    path.chmod(0o400)
    assert read_key(path).name == "host"


def test_a_key_file_has_all_that_its_holder_needs(folder: KeyFolder) -> None:
    made = folder.make("host", Role.CLIENT)
    held = read_key(folder.path / "host.key")
    assert (held.public, held.role, held.server) == (made.public, Role.CLIENT, folder.server().public)
    assert zmq.curve_public(held.secret.encode()).decode() == held.public


def test_the_servers_pair_is_made_once(folder: KeyFolder) -> None:
    folder.make("a", Role.CLIENT)
    server = folder.server()
    folder.make("b", Role.WORKER)
    assert folder.server() == server


def test_what_is_made_is_admitted_until_it_is_removed(folder: KeyFolder) -> None:
    assert folder.admitted() == []
    made = [folder.make("a", Role.CLIENT), folder.make("b", Role.WORKER), folder.make("c", Role.ADMIN)]
    assert folder.admitted() == made
    folder.remove("b")
    assert folder.admitted() == [made[0], made[2]]
    assert folder.secret_file("b") is None
    with pytest.raises(ConfigError, match="no key 'b'"):
        folder.remove("b")


def test_a_public_key_from_elsewhere_is_admitted_without_a_secret(folder: KeyFolder) -> None:
    public = zmq.curve_keypair()[0].decode()
    assert folder.make("net", Role.CLIENT, hexadecimal(public)).public == public
    assert folder.secret_file("net") is None


def test_a_key_has_one_name_and_a_name_one_key(folder: KeyFolder) -> None:
    public = folder.make("a", Role.CLIENT).public
    with pytest.raises(ConfigError, match="already"):
        folder.make("a", Role.ADMIN)
    with pytest.raises(ConfigError, match="key of 'a' already"):
        folder.make("b", Role.ADMIN, public)
    with pytest.raises(ConfigError, match="key of 'server' already"):
        folder.make("b", Role.ADMIN, folder.server().public)
    (folder.path / "b.pub").write_text((folder.path / "a.pub").read_text().replace('"a"', '"b"'))
    assert folder.admitted() == [] and "a and b are the same key" in folder.read().problems[0]


@pytest.mark.parametrize("name", ["", "server", "../a", "a/b", ".a", "a b", "x" * 65])
def test_a_name_that_is_no_file_name_is_refused(folder: KeyFolder, name: str) -> None:
    with pytest.raises(ConfigError):
        folder.make(name, Role.CLIENT)


def test_a_damaged_entry_of_the_allow_list_admits_nobody_and_harms_no_other(folder: KeyFolder) -> None:
    folder.make("a", Role.CLIENT)
    other = folder.make("other", Role.CLIENT)
    for text in ("", "{}", '{"name":"a","role":"king","public":"x"}', '{"name":"b","role":"client","public":"x"}'):
        (folder.path / "a.pub").write_text(text)
        found = folder.read()
        assert found.keys == [other]
        assert len(found.problems) == 1 and "a.pub" in found.problems[0]
    folder.remove("a")
    assert folder.read() == Admitted(keys=[other])


def test_the_environment_names_a_key_by_file_or_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMBROKER_DATA", str(tmp_path))
    monkeypatch.delenv("VRAMBROKER_KEY", raising=False)
    folder = KeyFolder(load().keys)
    folder.make("host", Role.CLIENT)
    assert own_key() is None
    for chosen in ("host", str(folder.path / "host.key")):
        monkeypatch.setenv("VRAMBROKER_KEY", chosen)
        assert own_key() == read_key(folder.path / "host.key")
    choose("nobody")
    with pytest.raises(ConfigError, match="cannot be read"):
        own_key()


def test_a_keys_own_quota_overrides_the_common_one(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("curve = true\n[quotas]\nburst = 5\n[quotas.keys.host]\nin_flight = 2\n")
    settings = load(file, {})
    assert settings.curve
    assert (settings.quota.burst, settings.quota.in_flight) == (5, 4096)
    assert (settings.quotas["host"].burst, settings.quotas["host"].in_flight) == (5, 2)


@pytest.mark.parametrize("table", ["[quotas]\nburst = 0", "[quotas.keys.a]\nin_flight = -1", "[quotas.keys.a]\nx = 1"])
def test_a_quota_that_cannot_be_obeyed_is_refused(tmp_path: Path, table: str) -> None:
    file = tmp_path / "c.toml"
    file.write_text(table)
    with pytest.raises(ConfigError, match="quotas"):
        load(file, {})
