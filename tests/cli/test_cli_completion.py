"""Shells complete names that the running broker knows, and nothing where none answers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from router import Router

ROOT = Path(__file__).parents[2]
SHELLS = ("bash", "zsh", "fish")


def complete(shell: str, words: str, runtime: Path) -> str:
    """What `vrambroker` offers a shell at the end of these words."""
    typed = words.split(" ")
    variables = {
        "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(typed) - 1)},
        "zsh": {"_TYPER_COMPLETE_ARGS": words},
        "fish": {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "VRAMBROKER_RUNTIME": str(runtime),
        "_VRAMBROKER_COMPLETE": f"complete_{shell}",
        **variables,
    }
    # The variable is named after the program, as its entry point names it.
    start = "import sys; sys.argv[0] = 'vrambroker'; from cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", start], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.replace("\\", "")  # zsh wants colons escaped


@pytest.mark.parametrize("shell", SHELLS)
def test_models_devices_and_request_ids_are_offered(shell: str, broker: Router, tmp_path: Path) -> None:
    root = f"vrambroker -e {broker.endpoint}"
    assert "tiny-sd15" in complete(shell, f"{root} load ti", tmp_path)
    if shell == "bash":
        assert "cpu:0" in complete(shell, f"{root} load m --device cp", tmp_path)
        assert "cpu:0" in complete(shell, f"{root} drain ", tmp_path)
        assert "r" in complete(shell, f"{root} cancel ", tmp_path).split()[0]
        assert "benchmark" in complete(shell, f"{root} ben", tmp_path)


def test_what_does_not_begin_so_is_not_offered(broker: Router, tmp_path: Path) -> None:
    assert "tiny-sd15" not in complete("bash", f"vrambroker -e {broker.endpoint} load zz", tmp_path)


def test_without_a_broker_nothing_is_offered(tmp_path: Path) -> None:
    assert complete("bash", "vrambroker -e tcp://127.0.0.1:1 load ti", tmp_path).strip() == ""


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_gets_its_script(shell: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "_VRAMBROKER_COMPLETE": f"source_{shell}"}
    start = "import sys; sys.argv[0] = 'vrambroker'; from cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", start], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert "_VRAMBROKER_COMPLETE" in done.stdout and "vrambroker" in done.stdout
