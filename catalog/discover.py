"""Where models lie beneath a root.

Decides which paths are candidates; whether they are models is for `modelfiles.inspect`. Follows links that stay
beneath the roots, each real folder once. Names that begin with a dot are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modelfiles import folders
from modelfiles.allowed import PICKLES
from modelfiles.paths import Roots
from modelfiles.profiles import SUFFIX
from protocol.errors import ErrorCode, Fault
from protocol.replies import RejectedFile


def discover(root: Path, roots: Roots, seen: set[Path] | None = None) -> Iterator[Path | RejectedFile | None]:
    """Real paths of candidates, files that cannot be candidates, and None between folders to let others work."""
    seen = set() if seen is None else seen
    if root in seen or not root.is_dir():
        return
    seen.add(root)
    yield None
    try:
        if folders.is_pipeline_folder(root) or folders.is_part_folder(root):
            if folders.has_weights(root):
                yield root
            return
        children = sorted(root.iterdir())
    except OSError as error:
        yield rejected(root, Fault(ErrorCode.MODEL_CORRUPTED, f"{root.name} cannot be read: {error.strerror}"))
        return
    for child in children:
        if not child.name.startswith("."):
            yield from _child(child, roots, seen)


def _child(child: Path, roots: Roots, seen: set[Path]) -> Iterator[Path | RejectedFile | None]:
    try:
        if not child.is_symlink() and child.is_dir():
            yield from discover(child, roots, seen)
        elif child.is_dir():
            yield from discover(roots.inside(child), roots, seen)
        elif is_candidate(child):
            yield roots.inside(child)
    except Fault as fault:
        yield rejected(child, fault)


def is_candidate(path: Path) -> bool:
    """Whether a file's ending is that of a model, safe or not."""
    return path.suffix.lower() in PICKLES | {".safetensors"} or path.name.lower().endswith(SUFFIX)


def rejected(path: Path, fault: Fault) -> RejectedFile:
    return RejectedFile(path=str(path), code=fault.code, reason=fault.info.message)
