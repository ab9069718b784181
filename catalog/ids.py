"""Model ids made from paths, and the ids nearest to one that nobody knows.

Decides names alone; knows no files.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Container, Iterable
from pathlib import PurePath

from modelfiles.profiles import SUFFIX

MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MAX_CHARS = 128
DIGEST_CHARS = 8
FILE_ENDINGS = (".safetensors", SUFFIX)


def id_from(relative: PurePath, root_name: str, taken: Container[str]) -> str:
    """The id of the model at `relative` beneath its root: its path without the ending, folders joined by `-`.

    The root itself takes the root's name. A taken id gets a digest of the path behind it, the same one every time.
    """
    text = str(relative) if relative.parts else root_name
    plain = text
    for ending in FILE_ENDINGS:
        if plain.lower().endswith(ending):
            plain = plain[: -len(ending)]
    ascii_text = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", ascii_text).strip("-._") or "model"
    if len(plain) <= MAX_CHARS and plain not in taken:
        return plain
    digest = hashlib.sha256(f"{root_name}/{text}".encode(errors="surrogatepass")).hexdigest()
    for chars in range(DIGEST_CHARS, len(digest)):
        candidate = f"{plain[: MAX_CHARS - chars - 1]}-{digest[:chars]}"
        if candidate not in taken:
            return candidate
    raise ValueError(f"no free id for {text!r}")


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
