"""Security from outside: what `serve` refuses to start with, keys made by the command, and clients that use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from client.answers import NoAnswer
from client.curve import CurveKeys
from client.sync import Client
from protocol.commands import Generate, ListDevices, LoadModel
from settings.keys import KeyFolder, Role
from tests.integration.conftest import ROOT, wait_for


def environment(folder: Path, **settings: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("VRAMBROKER_")}
    plain = {"COMMANDS": "tcp://127.0.0.1:0", "EVENTS": "tcp://127.0.0.1:0", "DEVICES": "virtual:1"}
    mine = {"RUNTIME": str(folder / "runtime"), "WEB": "127.0.0.1:0", "DRAIN": "1", **plain, **settings}
    return kept | {f"VRAMBROKER_{key}": value for key, value in mine.items()}


def run(folder: Path, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "cli.main", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment(folder, **settings), capture_output=True, text=True, timeout=60, check=False
    )


OPEN = [
    ("COMMANDS", "tcp://0.0.0.0:0", "client"),
    ("COMMANDS", "tcp://*:0", "client"),
    ("COMMANDS", "tcp://127.0.0.1.example.org:0", "client"),
    ("EVENTS", "tcp://[::]:0", "client"),
    ("WORKERS", "tcp://192.0.2.1:5557", "worker"),
    ("WEB", "0.0.0.0:0", "client"),
]


@pytest.mark.parametrize(("name", "address", "role"), OPEN)
def test_an_address_that_others_can_reach_is_refused_without_keys(
    tmp_path: Path, name: str, address: str, role: str
) -> None:
    refused = run(tmp_path, "serve", **{name: address})
    assert refused.returncode == 2
    assert f"{name.lower()} is '{address}'" in refused.stderr
    assert "CURVE keys" in refused.stderr
    assert f"vrambroker keys make NAME --role {role}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_keys_of_another_role_do_not_open_an_address(tmp_path: Path) -> None:
    KeyFolder(tmp_path / "runtime" / "data" / "keys").make("gpu", Role.WORKER)
    refused = run(tmp_path, "serve", COMMANDS="tcp://0.0.0.0:0")
    assert refused.returncode == 2
    assert "admits no client or admin" in refused.stderr


def test_a_servers_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path / "runtime" / "data" / "keys")
    keys.make("host", Role.CLIENT)
    (keys.path / "server.key").chmod(0o644)
    refused = run(tmp_path, "serve", COMMANDS="tcp://0.0.0.0:0")
    assert refused.returncode == 2
    assert "can be read by others" in refused.stderr


def test_a_keys_folder_that_others_may_write_admits_nobody_and_says_the_mode(tmp_path: Path) -> None:
    keys = KeyFolder(tmp_path / "runtime" / "data" / "keys")
    keys.make("host", Role.CLIENT)
    (keys.path / "host.pub").chmod(0o666)
    refused = run(tmp_path, "serve", COMMANDS="tcp://0.0.0.0:0")
    assert (refused.returncode, "mode 0666" in refused.stderr) == (2, True)
    keys.path.chmod(0o777)
    listed = run(tmp_path, "keys", "list")
    assert "no keys" in listed.stdout and "mode 0777" in listed.stderr
    made = run(tmp_path, "keys", "make", "more", "--role", "client")
    assert (made.returncode, "mode 0777" in made.stderr) == (1, True)


def test_the_command_makes_lists_shows_and_removes_keys(tmp_path: Path) -> None:
    assert "no keys" in run(tmp_path, "keys", "list").stdout
    made, server = json.loads(run(tmp_path, "keys", "make", "host", "--role", "client", "--json").stdout)
    assert (len(made["z85"]), len(made["hex"])) == (40, 64)
    assert (Path(made["file"]).stat().st_mode & 0o777, server["name"]) == (0o600, "server")
    again = run(tmp_path, "keys", "make", "host", "--role", "admin")
    assert (again.returncode, "already" in again.stderr) == (1, True)
    listed = run(tmp_path, "keys", "list").stdout
    for text in ("host (client)", made["z85"], made["hex"], server["z85"], server["hex"]):
        assert text in listed
    assert "secret" not in run(tmp_path, "keys", "show", "host").stdout
    shown = json.loads(run(tmp_path, "keys", "show", "host", "--secret", "--json").stdout)[0]
    assert zmq.curve_public(shown["secret_z85"].encode()).decode() == made["z85"]
    assert bytes.fromhex(shown["secret_hex"])
    assert run(tmp_path, "keys", "remove", "host").returncode == 0
    assert "no keys" in run(tmp_path, "keys", "list").stdout


class Serving:
    """A broker with keys on every endpoint, its workers on TCP, and a model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = KeyFolder(folder / "runtime" / "data" / "keys")
        for name, role in (("host", Role.CLIENT), ("gpu", Role.WORKER), ("boss", Role.ADMIN)):
            self.keys.make(name, role)
        models = folder / "models"
        models.mkdir()
        part = {"family": "SDXL", "bytes": 1 << 20, "load_ms": 1, "step_ms": 1, "peak_bytes": 2 << 20}
        (models / "m.vmodel.json").write_text(json.dumps({**part, "components": {"unet": 1 << 20}}))
        config = folder / "config.toml"
        config.write_text('curve = true\nworkers = "tcp://127.0.0.1:*"\n')
        self.settings = {"MODELS": str(models), "CONFIG": str(config)}
        self.log = folder / "log"
        with self.log.open("wb") as stream:
            command = [sys.executable, "-P", "-m", "cli.main", "serve"]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(folder, **self.settings), stdout=stream, stderr=stream
            )

    def endpoints(self) -> dict[str, Any]:
        file = self.folder / "runtime" / "endpoints.json"
        return dict(wait_for(lambda: json.loads(file.read_text())))

    def curve(self, name: str) -> CurveKeys:
        return CurveKeys.read(self.keys.path / f"{name}.key")

    def command(self, *words: str, key: str = "") -> subprocess.CompletedProcess[str]:
        return run(self.folder, *words, **self.settings, **({"KEY": key} if key else {}))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    serving = Serving(tmp_path_factory.mktemp("security"))
    try:
        waited = serving.command("status", "--wait", "60", key="host")
        assert waited.returncode == 0, waited.stderr + serving.log.read_text()[-2000:]
        yield serving
    finally:
        serving.process.terminate()
        assert serving.process.wait(30) == 0


def test_workers_over_tcp_serve_a_client_with_a_key(serving: Serving) -> None:
    with Client(serving.endpoints()["commands"], curve=serving.curve("host")) as client:
        assert client.send(LoadModel(model_id="m", request_id="mine")).request_id == "mine"
        answer = client.call(Generate(model_id="m", prompt="x", steps=2, request_id="picture"))
        assert answer.reply.request_id == "picture"
        assert client.send(ListDevices()).success


def test_no_secret_stands_in_a_command_line(serving: Serving) -> None:
    shown = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True, check=True).stdout
    for file in serving.keys.path.glob("*.key"):
        assert json.loads(file.read_text())["secret"] not in shown


def test_the_command_line_connects_with_a_key(serving: Serving) -> None:
    assert serving.command("devices", "--json", key=str(serving.keys.path / "host.key")).returncode == 0
    assert serving.command("--key", "host", "devices", "--json").returncode == 0
    assert serving.command("devices").returncode == 3
    missing = serving.command("devices", key="nobody")
    assert (missing.returncode, "cannot be read" in missing.stderr) == (2, True)


def test_only_an_admins_key_drains(serving: Serving) -> None:
    refused = serving.command("drain", "virtual:0", key="host")
    assert (refused.returncode, "UNAUTHORIZED" in refused.stderr) == (1, True)
    assert serving.command("drain", "virtual:0", key="boss").returncode == 0
    assert serving.command("resume", "virtual:0", key="boss").returncode == 0


def test_events_reach_a_key(serving: Serving) -> None:
    shown = serving.command("events", "telemetry.", "--count", "1", "--json", key="host")
    assert json.loads(shown.stdout.splitlines()[0])


def test_a_command_line_without_a_key_is_told_which_there_are(serving: Serving) -> None:
    refused = serving.command("status")
    assert refused.returncode == 3
    said = " ".join(refused.stderr.split())
    assert "it wants a key, and this client has none" in said
    assert f"Names are looked for in {serving.keys.path}: those there: boss, gpu, host" in said


def test_the_configuration_alone_says_where_the_broker_and_its_keys_are(serving: Serving) -> None:
    place = serving.folder / "place.toml"
    place.write_text(f'runtime = "{serving.folder / "runtime"}"\n')
    command = [sys.executable, "-P", "-m", "cli", "--config", str(place), "-k", "host", "ps", "--json"]
    bare = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    shown = subprocess.run(command, env=bare, capture_output=True, text=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)["devices"]


def test_an_endpoint_alone_leads_to_the_events(serving: Serving) -> None:
    with Client(serving.endpoints()["commands"], curve=serving.curve("host")) as client:
        assert client.hello().events == serving.endpoints()["events"]
        with client.events(["telemetry."]) as stream:
            assert stream.next(10) is not None


def test_a_client_without_a_key_hears_nothing_and_gives_up_in_time(serving: Serving) -> None:
    with Client(serving.endpoints()["commands"]) as client:
        for _ in range(3):
            with pytest.raises(NoAnswer):
                client.send(ListDevices(), timeout=0.3)
