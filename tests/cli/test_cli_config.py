"""`vrambroker config`: whether a broker would start, and what is in force, without one."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "b.toml"
    path.write_text(f'models = ["{tmp_path}/none"]\ndevices = "virtual:2"\nadmin = true\n')
    return path


def test_a_good_configuration_is_said_to_start_with_what_looks_wrong(vrambroker: Run, file: Path) -> None:
    done = vrambroker("config", "check", str(file), columns=200)
    assert done.returncode == 0
    assert "a broker would start with virtual:0, virtual:1" in done.stdout and "none does not exist" in done.stdout
    told = json.loads(vrambroker("config", "check", str(file), "--json").stdout)
    assert told["starts"] is True and len(told["warnings"]) == 1 and told["devices"] == ["virtual:0", "virtual:1"]


def test_one_that_no_broker_would_start_with_is_status_2(vrambroker: Run, file: Path) -> None:
    file.write_text('commands = "tcp://0.0.0.0:5555"')
    done = vrambroker("config", "check", str(file))
    assert done.returncode == 2 and "it needs CURVE keys" in " ".join(done.stderr.split())
    file.write_text("modles = []")
    done = vrambroker("config", "check", str(file), "--json")
    assert done.returncode == 2 and "did you mean models?" in json.loads(done.stdout)["error"]
    assert vrambroker("config", "show", str(file)).returncode == 2


def test_what_is_in_force_is_shown_with_who_said_it(vrambroker: Run, file: Path) -> None:
    plain = vrambroker("config", "show", str(file), columns=200).stdout
    told = vrambroker("config", "show", str(file), "--origin", columns=200).stdout
    assert '"virtual:2"' in plain and "ORIGIN" not in plain
    line = next(line for line in told.splitlines() if line.startswith("admin "))
    assert line.split(maxsplit=2)[1:] == ["true", f"file {file}"]
    assert "environment VRAMBROKER_RUNTIME" in told
    rows = json.loads(vrambroker("config", "show", str(file), "--json").stdout)
    assert {"key": "admin", "value": "true", "origin": f"file {file}"} in rows
