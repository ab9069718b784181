"""Where models lie beneath a root.

Decides which paths are candidates; whether they are models is for `modelfiles.inspect`. Follows links that stay
beneath the roots, each real folder once. Names that begin with a dot are passed over.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

from modelfiles import folders
from modelfiles.allowed import PICKLES
from modelfiles.paths import Roots
from modelfiles.profiles import SUFFIX
from modelfiles.strangers import UNFINISHED
from modelfiles.text import shown
from protocol.errors import ErrorCode, Fault
from protocol.replies import RejectedFile

ENDINGS = (".safetensors", SUFFIX, *sorted(PICKLES))


def discover(root: Path, roots: Roots, seen: set[Path] | None = None) -> Iterator[Path | RejectedFile | None]:
    """Real paths of candidates, files that cannot be candidates, and None between folders to let others work."""
    seen = set() if seen is None else seen
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        if folder in seen:
            continue
        seen.add(folder)
        yield None
        found, folders_within = _look_into(folder, roots)
        yield from found
        waiting += reversed(folders_within)


def _look_into(folder: Path, roots: Roots) -> tuple[list[Path | RejectedFile], list[Path]]:
    """The candidates and rejections right in a folder, and the folders to look into next."""
    try:
        if not folder.is_dir():
            return [], []
        if folders.is_pipeline_folder(folder) or folders.is_part_folder(folder):
            return ([folder] if folders.has_weights(folder) else []), []
        with os.scandir(folder) as listing:
            children = sorted(listing, key=lambda child: child.name)
    except OSError as error:
        return [rejected(folder, unreadable(folder, error))], []
    found: list[Path | RejectedFile] = []
    within: list[Path] = []
    names = {child.name for child in children}
    for child in children:
        if child.name.startswith("."):
            continue
        path = folder / child.name
        try:
            if child.is_dir():
                within.append(roots.inside(path) if child.is_symlink() else path)
            elif is_unfinished(child.name, names):
                found.append(rejected(path, unfinished(path)))
            elif is_candidate(child.name):
                found.append(roots.inside(path) if child.is_symlink() else path)
        except Fault as fault:
            found.append(rejected(path, fault))
        except OSError as error:
            found.append(rejected(path, unreadable(path, error)))
    return found, within


def unreadable(path: Path, error: Exception) -> Fault:
    """What is said of a file that its reader failed on: the system's reason, else the kind of the failure."""
    reason = error.strerror if isinstance(error, OSError) else type(error).__name__
    return Fault(ErrorCode.MODEL_CORRUPTED, f"{shown(path.name)} cannot be read: {reason}")


def is_unfinished(name: str, beside: Collection[str]) -> bool:
    """Whether a model's download is not done, by its own ending or by the note of a downloader among `beside`."""
    stem, dot, ending = name.lower().rpartition(".")
    if dot + ending in UNFINISHED:
        return stem.endswith((".safetensors", *PICKLES))
    return is_candidate(name) and any(name + note in beside for note in UNFINISHED)


def unfinished(path: Path) -> Fault:
    return Fault(ErrorCode.MODEL_CORRUPTED, f"{shown(path.name)} is an unfinished download: scan again once it is done")


def is_candidate(name: str) -> bool:
    """Whether a file's ending is that of a model, safe or not."""
    return name.lower().endswith(ENDINGS)


def rejected(path: Path, fault: Fault) -> RejectedFile:
    return RejectedFile(path=shown(path), code=fault.code, reason=shown(fault.info.message))
