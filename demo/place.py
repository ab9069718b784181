"""Putting finished files and folders in their place at once.

Decides that nobody sees half a model: it is written beside its place under a hidden name, then renamed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def placed(target: Path) -> Iterator[Path]:
    """A path to write a file or folder to; once written without an error it replaces whatever `target` was."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=target.parent) as scratch:
        temporary = Path(scratch) / target.name
        yield temporary
        if target.is_dir() and temporary.is_dir():
            # A folder cannot be renamed over a full one: the old one goes into the scratch folder, and with it.
            shutil.move(target, Path(scratch) / f"old-{target.name}")
        temporary.replace(target)
