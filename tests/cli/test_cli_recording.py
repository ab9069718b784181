"""`vrambroker record` and `replay` as people use them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from router import Router

from client import Client

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]


def test_what_clients_ask_is_recorded_until_an_interrupt_and_replayed(
    broker: Router, vrambroker: Run, tmp_path: Path
) -> None:
    file = tmp_path / "recording.jsonl"
    command = [sys.executable, "-P", "-m", "cli", "-e", broker.endpoint, "record", str(file), "--scrub"]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "VRAMBROKER_RUNTIME": str(tmp_path)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[3].rstrip(";")
        with Client(address) as client:
            assert client.models().success
            client.generate("tiny-sd15", "nobody else's business")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and rest.strip() == "2 commands, 2 answers"
    assert "business" not in file.read_text()
    done = vrambroker("-e", broker.endpoint, "replay", str(file), "--speed", "100", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["outcomes"]["completed"] == 2 and set(report["commands"]) == {"generate", "list_models"}


def test_mistakes_are_told_apart(broker: Router, vrambroker: Run, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.write_text("{}")
    for words, said in (
        (("record", str(there)), "is there already"),
        (("record", str(tmp_path / "new"), "--listen", "nowhere"), "did you mean tcp://nowhere:5555?"),
        (("replay", str(there)), "line 1"),
        (("replay", str(tmp_path / "none")), "cannot be read"),
        (("replay", str(there), "--speed", "0"), "speed is 0"),
    ):
        done = vrambroker("-e", broker.endpoint, *words)
        assert done.returncode == 2 and said in " ".join(done.stderr.split()), words
        assert "Traceback" not in done.stderr
