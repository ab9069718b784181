"""Files that cannot be understood: kept under another name, so that they are neither read again nor lost."""

from __future__ import annotations

from pathlib import Path

DAMAGED = ".damaged"
"""What stands behind the name of a file that was set aside; a number follows where that name is taken."""


def kept_name(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    first = path.with_name(path.name + DAMAGED)
    if not first.exists():
        return first
    return next(other for n in range(2, 1 << 30) if not (other := first.with_name(f"{first.name}.{n}")).exists())


def set_aside(path: Path) -> Path:
    """Rename what lies at `path`; its new name. Raises OSError."""
    return path.rename(kept_name(path))
