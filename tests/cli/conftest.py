"""The command line run as people run it: a process against the scripted router."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "client"))

import replies
from router import Received, Router

from protocol.codec import action_of

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def broker() -> Iterator[Router]:
    """A router that answers every command well, generations with an image."""

    def answer(received: Received) -> None:
        action = action_of(received.command)
        received.send(replies.of_action(action), [replies.PNG] if action == "generate" else [])

    with Router(answer) as router:
        yield router


@pytest.fixture
def vrambroker(tmp_path: Path) -> Run:
    """Run `vrambroker` with these words, in an empty folder, to its end."""

    def run(*words: str, columns: int = 80) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "VRAMBROKER_RUNTIME": str(tmp_path),
            "COLUMNS": str(columns),
            "PYTHONUTF8": "1",
        }
        return subprocess.run(
            [sys.executable, "-P", "-m", "cli", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run
