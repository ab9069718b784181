"""Where a broker is stands in one file, replaced in one step; the environment fixes what it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from settings.endpoints import Endpoints, find, read, write
from settings.file import ConfigError

FOUND = Endpoints(
    commands="tcp://127.0.0.1:40123", events="tcp://127.0.0.1:40124", web="http://127.0.0.1:40125", pid=7, epoch="e1"
)


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMBROKER_RUNTIME", str(tmp_path))
    monkeypatch.delenv("VRAMBROKER_COMMANDS", raising=False)
    monkeypatch.delenv("VRAMBROKER_EVENTS", raising=False)
    return tmp_path


def test_what_is_written_is_read(runtime: Path) -> None:
    write(runtime, FOUND)
    assert read(runtime) == FOUND


def test_the_file_is_the_one_that_the_wire_describes(runtime: Path) -> None:
    write(runtime, FOUND)
    assert json.loads((runtime / "endpoints.json").read_text()) == {
        "commands": "tcp://127.0.0.1:40123",
        "events": "tcp://127.0.0.1:40124",
        "web": "http://127.0.0.1:40125",
        "pid": 7,
        "epoch": "e1",
    }


def test_writing_again_replaces_the_file_and_leaves_no_other(runtime: Path) -> None:
    write(runtime, FOUND)
    write(runtime, Endpoints(commands="a", events="b"))
    assert read(runtime) == Endpoints(commands="a", events="b")
    assert [path.name for path in runtime.iterdir()] == ["endpoints.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"commands":1,"events":"b"}', b'{"commands":"\xff"}'])
def test_a_file_that_says_nothing_is_no_broker(runtime: Path, content: bytes) -> None:
    (runtime / "endpoints.json").write_bytes(content)
    assert read(runtime) is None


def test_without_a_file_there_is_no_broker_and_the_defaults_are_tried(runtime: Path) -> None:
    assert read(runtime) is None
    assert find() == Endpoints(commands="tcp://127.0.0.1:5555", events="tcp://127.0.0.1:5556")


def test_the_file_tells_where_the_broker_is(runtime: Path) -> None:
    write(runtime, FOUND)
    assert find() == FOUND


def test_the_environment_wins_over_the_file(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(runtime, FOUND)
    monkeypatch.setenv("VRAMBROKER_COMMANDS", "tcp://127.0.0.1:9")
    assert find().commands == "tcp://127.0.0.1:9"
    assert find().events == FOUND.events


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:0", "tcp://127.0.0.1:*", ""])
def test_any_free_port_is_no_address_to_go_to(runtime: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    write(runtime, FOUND)
    monkeypatch.setenv("VRAMBROKER_COMMANDS", address)
    assert find().commands == FOUND.commands


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration that names a runtime folder, as `VRAMBROKER_CONFIG` says."""
    monkeypatch.delenv("VRAMBROKER_RUNTIME")
    path = tmp_path / "broker.toml"
    path.write_text(f'runtime = "{tmp_path / "own"}"\ncommands = "tcp://0.0.0.0:7000"\nevents = "tcp://127.0.0.1:0"\n')
    monkeypatch.setenv("VRAMBROKER_CONFIG", str(path))
    return path


def test_the_runtime_folder_of_the_configuration_is_looked_at(file: Path, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    write(tmp_path / "own", FOUND)
    assert find() == FOUND


def test_addresses_of_the_configuration_are_tried_where_no_broker_wrote_its_own(file: Path) -> None:
    assert find() == Endpoints(commands="tcp://127.0.0.1:7000", events="tcp://127.0.0.1:5556")


def test_the_environment_wins_over_the_configuration(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRAMBROKER_COMMANDS", "tcp://127.0.0.1:7001")
    assert find().commands == "tcp://127.0.0.1:7001"


def test_a_configuration_that_cannot_be_read_is_named(file: Path) -> None:
    file.write_text("runtime = 1")
    with pytest.raises(ConfigError, match=r"broker\.toml"):
        find()


def test_an_address_on_every_interface_is_reached_on_loopback(runtime: Path) -> None:
    write(runtime, Endpoints(commands="tcp://0.0.0.0:7", events="tcp://*:8"))
    assert (find().commands, find().events) == ("tcp://127.0.0.1:7", "tcp://127.0.0.1:8")
