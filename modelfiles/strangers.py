"""What a file is that is called a model and is none: told by its first bytes, in words that say what to do.

Decides names for what people really find under a model's name. Knows nothing of models.
"""

from __future__ import annotations

from modelfiles.jsonfile import corrupted, unsafe
from protocol.errors import Fault

PREFIX_BYTES = 512
UNFINISHED = frozenset({".part", ".partial", ".aria2", ".crdownload", ".incomplete", ".download", ".opdownload"})
"""Endings of downloads that are not done, and of the files that say so of the one beside them."""

_JSON_OR_LENGTH = b"{"


def stranger(prefix: bytes, what: str) -> Fault | None:
    """Why a file that begins so is no safetensors file; None where it may be one.

    A safetensors file has a number in its first 8 bytes and an opening brace behind it: what has both is not judged.
    """
    if prefix[8:9] == _JSON_OR_LENGTH or len(prefix) < 4:
        return None
    text = prefix.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"version https://git-lfs"):
        return corrupted(f"{what} is a Git LFS pointer, not the file it stands for: fetch that with `git lfs pull`")
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head", b"<body")):
        return corrupted(f"{what} is a web page (HTML), not a model: its download was answered by one, such as a login")
    if text[:1] in (b"{", b"[") and _is_text(prefix):
        return corrupted(f"{what} is JSON text, not a model: often what a server answered instead of the file")
    if prefix.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return unsafe(f"{what} is a zip archive, as torch.save writes its pickles: convert it to safetensors")
    if prefix[0] == 0x80 and 2 <= prefix[1] <= 5 and any(prefix[2:8]):
        return unsafe(f"{what} is a pickle, whose reading runs what it holds: convert it to safetensors")
    for start, name in _KINDS:
        if prefix.startswith(start):
            return corrupted(f"{what} is {name}, not a safetensors file")
    if prefix[0] == 0x08 and prefix[1] <= 12 and prefix[2] in (0x12, 0x3A):
        return corrupted(f"{what} is an ONNX model, not a safetensors file")
    if len(prefix) == PREFIX_BYTES and not any(prefix):
        return corrupted(f"{what} begins with nothing but zeros: an unfinished download")
    return None


_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"GGUF", "a GGUF file"),
    (b"ggml", "a GGML file"),
    (b"lmgg", "a GGML file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"RIFF", "a RIFF file, such as a WebP picture"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"%PDF", "a PDF"),
    (b"\x7fELF", "a program"),
    (b"SQLite format 3", "an SQLite database"),
)


def _is_text(prefix: bytes) -> bool:
    """Whether bytes are text: no control character but white space."""
    return all(byte >= 0x20 or byte in b"\t\r\n" for byte in prefix)
