"""Mistakes in how a broker is started are named with what was probably meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from settings.config import load
from settings.file import ConfigError
from settings.suspicions import suspicions


def told(environment: dict[str, str]) -> list[str]:
    return suspicions(load(environment=environment), environment)


def test_a_variable_that_nothing_reads_is_named_with_the_nearest(tmp_path: Path) -> None:
    (said,) = told({"VRAMBROKER_MODELS": str(tmp_path), "VRAMBROKER_DEVICE": "cpu:1", "PATH": "/bin"})
    assert said.startswith("the environment variable VRAMBROKER_DEVICE is not known")
    assert said.endswith("did you mean VRAMBROKER_DEVICES?")


def test_one_that_is_like_none_is_named_without_a_guess(tmp_path: Path) -> None:
    (said,) = told({"VRAMBROKER_MODELS": str(tmp_path), "VRAMBROKER_ZZZZZZZZZZZ": "1"})
    assert "VRAMBROKER_ZZZZZZZZZZZ" in said and "did you mean" not in said


def test_every_variable_of_the_wire_is_known(tmp_path: Path) -> None:
    names = ("CONFIG", "RUNTIME", "DATA", "DEVICES", "VRAM", "RAM", "DRAIN", "COMMANDS", "EVENTS", "WEB", "WORKERS")
    environment = {f"VRAMBROKER_{name}": "" for name in (*names, "PRELOAD", "KEY")}
    assert told({"VRAMBROKER_MODELS": str(tmp_path), **environment}) == []


def test_a_root_that_is_not_there_is_named_with_its_nearest_sibling(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "file").touch()
    roots = [tmp_path / "models", tmp_path / "modles", tmp_path / "file", tmp_path / "none" / "there"]
    gone, file, lost = told({"VRAMBROKER_MODELS": ":".join(map(str, roots))})
    assert f"{tmp_path}/modles does not exist" in gone and gone.endswith(f"did you mean {tmp_path}/models?")
    assert f"{tmp_path}/file is no folder" in file
    assert "none/there does not exist" in lost and "did you mean" not in lost


def test_a_broker_without_a_root_is_told_that_it_will_find_nothing() -> None:
    (said,) = told({})
    assert "no model root" in said and "VRAMBROKER_MODELS" in said


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('modles = ["/a"]', "modles is no key: did you mean models?"),
        ("[limits]\nqueued_totl = 5", "limits.queued_totl is no key: did you mean queued_total?"),
        ("[quotas]\nbrust = 5", "quotas.brust is no key: did you mean burst?"),
        ('preload = [{ modell = "a" }]', "preload.modell is no key: did you mean model?"),
        ("[quotas]\nzzz = 1\n[progres]\nx = 1", "quotas.zzz is no key; progres is no key: did you mean progress?"),
    ],
)
def test_a_wrong_key_is_refused_with_its_whole_path_and_the_nearest(tmp_path: Path, text: str, wrong: str) -> None:
    file = tmp_path / "b.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(file, {})
    assert str(refused.value) == f"configuration {file}: {wrong}"


@pytest.mark.parametrize("name", ["commands", "events", "workers", "web"])
def test_an_address_without_a_port_is_refused_by_name(name: str) -> None:
    value = "127.0.0.1" if name == "web" else "tcp://127.0.0.1"
    with pytest.raises(ConfigError, match=rf"{name} is '{value}': .*it has no port; did you mean {value}:\d+\?"):
        load(environment={f"VRAMBROKER_{name.upper()}": value})
