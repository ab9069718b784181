"""The configurations that the project ships: each is read whole, and a broker starts with it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from client.curve import CurveKeys
from client.sync import Client
from protocol.commands import ListDevices
from settings.config import load
from settings.keys import KeyFolder
from tests.integration.conftest import ROOT, wait_for

CONFIGS = sorted((ROOT / "configs").glob("*.toml"))
SECURE = "secure"


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """Virtual devices, free ports on loopback and folders of the test's own, whatever a configuration names."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VRAMBROKER_")}
    own = {
        "RUNTIME": str(folder / "runtime"),
        "DATA": str(folder / "data"),
        "MODELS": str(folder),
        "DEVICES": "virtual:2",
        "COMMANDS": "tcp://127.0.0.1:0",
        "EVENTS": "tcp://127.0.0.1:0",
        "WEB": "127.0.0.1:0",
        "DRAIN": "1",
    }
    return kept | {f"VRAMBROKER_{key}": value for key, value in (own | settings).items()}


def test_there_is_one_for_each_kind_of_deployment() -> None:
    assert {path.stem for path in CONFIGS} >= {"laptop", "one-gpu", "many-gpus", SECURE}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_key_is_explained_above_itself(path: Path) -> None:
    explained = False
    for line in path.read_text().splitlines():
        if not line:
            explained = False
        elif line.startswith("#"):
            explained = True
        else:
            assert explained, f"{path.name}: {line} has no comment above"
    assert load(path, {}).models


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_broker_starts_with_it_and_stops_clean(path: Path, tmp_path: Path) -> None:
    own = environment(tmp_path)
    if path.stem == SECURE:
        for name, role in (("studio", "client"), ("operator", "admin")):
            words = ["keys", "make", name, "--role", role, "--config", str(path)]
            subprocess.run([sys.executable, "-P", "-m", "cli.main", *words], cwd=ROOT, env=own, check=True, timeout=60)
    log = tmp_path / "log"
    with log.open("wb") as stream:
        command = [sys.executable, "-P", "-m", "cli.main", "serve", "--config", str(path)]
        process = subprocess.Popen(command, cwd=ROOT, env=own, stderr=stream, stdout=stream)
    try:
        endpoints = wait_for(lambda: json.loads((tmp_path / "runtime/endpoints.json").read_text()))
        keys = None
        if path.stem == SECURE:
            folder = KeyFolder(tmp_path / "data/keys")
            secret = folder.secret_file("studio")
            assert secret is not None
            keys = CurveKeys.read(secret)
        with Client(endpoints["commands"], curve=keys) as client:
            wait_for(lambda: {d.state.value for d in client.send(ListDevices()).devices} == {"ready"})
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0, log.read_text()[-2000:]


def test_secure_is_refused_before_keys_were_made(tmp_path: Path) -> None:
    words = [sys.executable, "-P", "-m", "cli.main", "serve", "--config", str(ROOT / "configs/secure.toml")]
    refused = subprocess.run(
        words, cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert re.search(r"vrambroker keys make NAME --role client", refused.stderr)
