"""The one path resolver: a path from a client becomes a path beneath a configured root, or a fault.

Decides what may be touched. Symlinks are followed before the check. Faults show what the client sent and nothing else:
not whether something exists outside the roots.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modelfiles.jsonfile import unsafe
from protocol.errors import ErrorCode, Fault, invalid

EXPECTED = "a path beneath a model root"


class Roots:
    """The folders beneath which models (or outputs) may lie, symlinks resolved once."""

    def __init__(self, roots: Iterable[str | Path]) -> None:
        self.folders = tuple(dict.fromkeys(Path(root).expanduser().resolve() for root in roots))

    def resolve(self, text: str, field: str = "model_path", expected: str = EXPECTED) -> Path:
        """The real, absolute path that `text` means, beneath a root; nothing needs to be there.

        A relative path is taken from the first root in which it exists, else from the first root.
        Raises Fault INVALID_ARGUMENT naming `field`.
        """
        if not text or "\0" in text or "~" in text[:1]:
            raise invalid(field, text, expected)
        for path in self._meant(text):
            try:
                resolved = path.resolve()
                kept = named(path, resolved)
            except (OSError, RuntimeError, ValueError):
                continue
            if self.contains(resolved) and self.contains(kept):
                return kept
        raise invalid(field, text, expected)

    def existing(self, text: str, field: str = "model_path") -> Path:
        """As `resolve`, and something must be there: else Fault MODEL_NOT_FOUND."""
        resolved = self.resolve(text, field)
        if not _exists(resolved):
            shown = text if len(text) <= 200 else text[:197] + "..."
            raise Fault(ErrorCode.MODEL_NOT_FOUND, f"{field} {shown!r}: nothing is there", details={"field": field})
        return resolved

    def contains(self, resolved: Path) -> bool:
        """Whether a path without symlinks is a root or lies beneath one."""
        return any(resolved.is_relative_to(root) for root in self.folders)

    def root_of(self, resolved: Path) -> Path:
        """The innermost root that contains `resolved`. Raises Fault INVALID_ARGUMENT when none does."""
        holders = [root for root in self.folders if resolved.is_relative_to(root)]
        if not holders:
            raise invalid("path", resolved.name, EXPECTED)
        return max(holders, key=lambda root: len(root.parts))

    def inside(self, path: Path) -> Path:
        """`path`, a part of a model, without symlinks. Raises Fault UNSAFE_MODEL when it leads out of the roots."""
        try:
            resolved = path.resolve()
            kept = named(path, resolved)
        except (OSError, RuntimeError):
            raise unsafe(f"{path.name} is a link that leads nowhere") from None
        if not (self.contains(resolved) and self.contains(kept)):
            raise unsafe(f"{path.name} is a link that leads out of the model roots")
        return kept

    def _meant(self, text: str) -> list[Path]:
        path = Path(text)
        if path.is_absolute():
            return [path]
        candidates = [root / path for root in self.folders]
        return sorted(candidates, key=lambda candidate: not _exists(candidate))


def named(path: Path, resolved: Path) -> Path:
    """The path under which a file is known: its real one, or the name of a link to a file of another ending.

    The hub's cache has its files under their hashes, and links with their names: a link's own ending says what it is.
    Raises OSError.
    """
    if path.suffix.lower() == resolved.suffix.lower() or not (path.is_symlink() and resolved.is_file()):
        return resolved
    return path.parent.resolve() / path.name


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
