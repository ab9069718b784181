"""Model ids made from paths, and the ids nearest to one that nobody knows.

Decides names alone; knows no files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath

from anyascii import anyascii

from modelfiles.profiles import SUFFIX
from modelfiles.text import cleaned

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_CHARS = 128
DIGEST_CHARS = 8
FILE_ENDINGS = (".safetensors", SUFFIX)
HUB_BEGINNING = "models--"
"""How the folder of a repository begins in the hub's cache: `models--ORG--NAME/snapshots/REVISION/...`."""


def id_from(relative: PurePath, root_name: str, is_taken: Callable[[str], bool]) -> str:
    """The id of the model at `relative` beneath its root: the stem of its file or the name of its folder.

    Letters that are not Latin are transliterated. A taken one gets the folders above before it, one after the other,
    then a digest of the path behind it, the same one every time. The root itself has the root's name.
    """
    words = _words(relative.parts) if relative.parts else [_typable(root_name)]
    for count in range(1, len(words) + 1):
        candidate = "-".join(words[-count:])
        if len(candidate) <= MAX_CHARS and not is_taken(candidate):
            return candidate
    digest = hashlib.sha256(f"{root_name}/{relative}".encode(errors="surrogatepass")).hexdigest()
    for chars in range(DIGEST_CHARS, len(digest)):
        candidate = f"{words[-1][: MAX_CHARS - chars - 1]}-{digest[:chars]}"
        if not is_taken(candidate):
            return candidate
    raise ValueError(f"no free id for {str(relative)!r}")


def _words(parts: Sequence[str]) -> list[str]:
    """The folders of a path and its name, as ids may have them; of the hub's cache the repository, not its layout."""
    kept: list[str] = []
    index = 0
    while index < len(parts):
        part = parts[index]
        repository = part.split("--") if part.startswith(HUB_BEGINNING) else []
        if len(repository) > 1 and parts[index + 1 : index + 2] == ("snapshots",):
            kept += repository[1:]
            index += 3
            continue
        kept.append(part)
        index += 1
    if kept and index == len(parts):
        kept[-1] = _without_ending(kept[-1])
    return [_typable(word) for word in kept]


def _without_ending(name: str) -> str:
    for ending in FILE_ENDINGS:
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name


def _typable(text: str) -> str:
    """Text with Latin letters, digits, '.', '_' and '-' alone, beginning with a letter or digit."""
    latin: str = anyascii(cleaned(text))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", latin).strip("-._") or "model"


def nearest(wanted: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Up to `count` known ids that share the most letter pairs with `wanted` (Dice's coefficient, at least 0.3)."""
    pairs = _pairs(wanted)
    scored = [(_likeness(pairs, _pairs(candidate)), candidate) for candidate in known]
    best = sorted((item for item in scored if item[0] >= 0.3), key=lambda item: (-item[0], item[1]))
    return [candidate for _, candidate in best[:count]]


def _pairs(text: str) -> frozenset[str]:
    padded = f"^{text.casefold()}$"
    return frozenset(padded[index : index + 2] for index in range(len(padded) - 1))


def _likeness(left: frozenset[str], right: frozenset[str]) -> float:
    return 2 * len(left & right) / (len(left) + len(right))
