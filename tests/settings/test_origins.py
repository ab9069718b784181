"""Every setting in force is shown with who said it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
import pytest

from settings.config import PREFIX, VARIABLES, load
from settings.file import ConfigError, File
from settings.origins import Setting, explained

TEXT = """
commands = "tcp://127.0.0.1:7000"
events = "tcp://127.0.0.1:7001"
vram = "512MiB"
devices = "cpu:2"
models = ["/srv/models"]
[limits]
steps = 50
[quotas]
burst = 7
[quotas.keys.studio]
burst = 9
"""


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Setting]:
    file = tmp_path / "b.toml"
    file.write_text(TEXT)
    environment = {"VRAMBROKER_EVENTS": "tcp://127.0.0.1:8001", "VRAMBROKER_DRAIN": "", "OMP_NUM_THREADS": "3"}
    return {one.key: one for one in explained(file, environment)}


def test_the_environment_the_file_and_nobody_are_told_apart(found: dict[str, Setting], tmp_path: Path) -> None:
    assert found["events"].value == '"tcp://127.0.0.1:8001"'
    assert found["events"].origin == "environment VRAMBROKER_EVENTS"
    assert (found["commands"].value, found["commands"].origin) == ('"tcp://127.0.0.1:7000"', f"file {tmp_path}/b.toml")
    assert (found["drain_seconds"].value, found["drain_seconds"].origin) == ("10.0", "default")
    assert found["worker_threads"] == Setting(key="worker_threads", value="3", origin="environment OMP_NUM_THREADS")
    assert found["runtime"].origin == "derived: the temporary folder"
    assert found["ram"].origin.startswith("derived: a quarter")


def test_values_are_as_the_file_would_have_them(found: dict[str, Setting]) -> None:
    assert found["vram"].value == '"512MiB"' and found["devices"].value == '"cpu:2"'
    assert found["models"].value == '["/srv/models"]'
    assert (found["limits.steps"].value, found["limits.queued_total"].value) == ("50", "16384")
    assert (found["quotas.burst"].value, found["quotas.keys.studio.burst"].value) == ("7", "9")
    plain = [one for one in found.values() if "." not in one.key]
    whole = tomllib.loads("\n".join(f"{one.key} = {one.value}" for one in plain if one.value not in ("0", '""')))
    msgspec.convert(whole, File)


def test_every_key_of_the_file_is_shown(found: dict[str, Setting]) -> None:
    shown = {key.partition(".")[0] for key in found}
    assert shown == {field.name for field in msgspec.structs.fields(File)}


def test_every_variable_that_says_a_setting_is_named_as_its_origin(tmp_path: Path) -> None:
    for name in set(VARIABLES) - {"CONFIG", "KEY"}:
        value = {"DEVICES": "cpu:1", "VRAM": "1GiB", "RAM": "1GiB", "DRAIN": "3", "PRELOAD": "m", "WEB": "127.0.0.1:1"}
        text = value.get(name, "tcp://127.0.0.1:1" if name in ("COMMANDS", "EVENTS", "WORKERS") else str(tmp_path))
        origins = [one.origin for one in explained(environment={PREFIX + name: text})]
        assert f"environment {PREFIX}{name}" in origins


def test_what_cannot_be_obeyed_is_refused_as_at_a_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        explained(tmp_path / "none.toml", {})
    assert load(environment={}).web == "127.0.0.1:9555"
