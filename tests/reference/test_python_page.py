"""The code of `docs/python.md` runs as it stands, with a broker that is found as the page says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from reference.pages import DOCS
from tests.integration.conftest import ROOT, serving

BLOCKS = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?```python\n(.*?)```", (DOCS / "python.md").read_text(), re.DOTALL)
PROFILE = {
    "family": "SDXL",
    "bytes": 1 << 20,
    "load_ms": 20,
    "step_ms": 1,
    "peak_bytes": 2 << 20,
    "components": {"unet": 1 << 20},
}


def test_the_code_of_the_page_runs(tmp_path: Path) -> None:
    assert len(BLOCKS) == 5
    models = tmp_path / "models"
    models.mkdir()
    (models / "sdxl-base.vmodel.json").write_text(json.dumps(PROFILE))
    with serving(tmp_path / "broker", models, DEVICES="virtual:2") as broker:
        broker.wait_ready()
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "VRAMBROKER_RUNTIME": str(broker.runtime),
        }
        for title, code in BLOCKS:
            done = subprocess.run(
                [sys.executable, "-P", "-c", code],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, f"{title}: {done.stderr}"
            assert done.stdout.strip(), title
    assert (tmp_path / "lighthouse.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))])
def test_every_link_between_pages_leads_to_a_file(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target
