"""Children of this process: what they import, and where they are."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from broker.launch.local import LocalLauncher


def test_a_child_imports_nothing_from_where_the_command_was_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    for name in ("msgspec", "zmq", "broker", "json", "sitecustomize"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').write({name!r})\nraise SystemExit(7)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f":{Path(__file__).parents[2]}")
    child = LocalLauncher().launch("broker", "no spec", talks=True)
    try:
        assert Path(f"/proc/{child.pid}/cwd").readlink() == Path("/")
        end = time.monotonic() + 30
        while child.status is None and time.monotonic() < end:
            time.sleep(0.01)
        assert child.status == 1 and not mark.exists()
    finally:
        child.kill()
        child.close()
