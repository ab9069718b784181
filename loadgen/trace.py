"""A recording: commands as they came, one JSON document a line, and when each was answered.

The first line says what it is. A payload that was MessagePack is kept as its bytes; a scrubbed one has no text that a
person wrote and no pictures, only how long they were.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from loadgen.scenario import ScenarioError

FORMAT = "vrambroker-recording"
VERSION = 1

WRITTEN = frozenset({"prompt", "negativeprompt", "prompts", "description", "metadata", "searchquery", "query", "tags"})
"""Fields whose texts people write, without case and underscores."""

FILLER = "x"
PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFUlEQVR42mNkYPj/nwEPYMInObwVAAAVLwIPTcFEQAAAAABJRU5ErkJggg=="
)
"""What stands for a picture that was scrubbed: grey, 8 by 8."""


class Head(Struct, frozen=True, kw_only=True, tag_field="kind", tag="head"):
    """The first line."""

    format: str = FORMAT
    version: int = VERSION
    started_at: str
    scrubbed: bool


class Kept(Struct, frozen=True, kw_only=True):
    """An attachment: how long it was, and itself in base64 where it was not scrubbed."""

    bytes: int
    data: str | None = None


class Command(Struct, frozen=True, kw_only=True, tag_field="kind", tag="command"):
    """A command: seconds since the start, the number of its client, what it carried.

    `payload` is the JSON object that it was; of MessagePack, `packed` is the bytes in base64 instead.
    """

    at: float
    client: int
    payload: dict[str, Any] | None = None
    packed: str | None = None
    attachments: list[Kept] = []


class Answer(Struct, frozen=True, kw_only=True, tag_field="kind", tag="answer"):
    """A final reply: when it came, to whom, for which request id, how the command ended."""

    at: float
    client: int
    request_id: str
    state: str
    success: bool


Line = Head | Command | Answer
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Line)


def write(stream: IO[bytes], line: Line) -> None:
    """One line. Raises OSError."""
    stream.write(_encoder.encode(line) + b"\n")


def read(path: Path) -> Iterator[Command | Answer]:
    """A recording's lines behind the first. Raises OSError, ScenarioError for what is no recording.

    A last line that was cut, as by a full disk, ends it.
    """
    with path.open("rb") as stream:
        head = _line(stream.readline(), path, 1)
        if not isinstance(head, Head) or head.format != FORMAT:
            raise ScenarioError(f"{path} is no recording: its first line does not say so")
        if head.version != VERSION:
            raise ScenarioError(f"{path} is a recording of version {head.version}: this version reads {VERSION}")
        for number, text in enumerate(stream, start=2):
            if not text.endswith(b"\n"):
                return
            line = _line(text, path, number)
            if not isinstance(line, Head):
                yield line


def _line(text: bytes, path: Path, number: int) -> Line:
    try:
        line: Line = _decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}, line {number}: {error}") from None
    return line


def command(at: float, client: int, payload: bytes, attachments: list[bytes], *, scrub: bool) -> Command:
    """What is kept of a command. A payload that is neither JSON nor MessagePack is kept as it came."""
    kept = [Kept(bytes=len(data), data=None if scrub else _text(data)) for data in attachments]
    decoded, is_json = _decoded(payload)
    if decoded is None:
        return Command(at=at, client=client, packed=None if scrub else _text(payload), attachments=kept)
    if scrub:
        decoded = scrubbed(decoded)
    elif not is_json:
        return Command(at=at, client=client, packed=_text(payload), attachments=kept)
    return Command(at=at, client=client, payload=decoded, attachments=kept)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decoded(payload: bytes) -> tuple[dict[str, Any] | None, bool]:
    """A payload as an object, and whether it was JSON; None where it is no object of either kind."""
    for decode, is_json in ((msgspec.json.decode, True), (msgspec.msgpack.decode, False)):
        try:
            found = decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            continue
        if isinstance(found, dict):
            return found, is_json
    return None, False


def scrubbed(value: Any, *, mine: bool = False) -> Any:
    """The value with every text beneath a field that people write replaced by as many letters."""
    match value:
        case dict():
            return {key: scrubbed(item, mine=mine or _is_written(key)) for key, item in value.items()}
        case list():
            return [scrubbed(item, mine=mine) for item in value]
        case str() if mine:
            return FILLER * len(value)
        case _:
            return value


def _is_written(key: Any) -> bool:
    return isinstance(key, str) and key.replace("_", "").lower() in WRITTEN


def restored(kept: Command) -> tuple[dict[str, Any] | None, list[bytes]]:
    """A command's object, None where it was none, and its attachments; a scrubbed picture is a small grey one."""
    payload = kept.payload
    if payload is None and kept.packed is not None:
        payload = _decoded(base64.b64decode(kept.packed))[0]
    frames = [PICTURE if one.data is None else base64.b64decode(one.data) for one in kept.attachments]
    if payload is not None and frames:
        payload = {**payload, **_named(payload, frames)}
    return payload, frames


def _named(payload: dict[str, Any], frames: list[bytes]) -> dict[str, Any]:
    """The attachments' entries with the lengths that they have now."""
    for key, entries in payload.items():
        if key.lower() == "attachments" and isinstance(entries, list) and len(entries) == len(frames):
            word = next((word for word in ("bytes", "Bytes") if entries and word in entries[0]), "bytes")
            pairs = zip(entries, frames, strict=True)
            return {key: [{**entry, word: len(frame)} for entry, frame in pairs if isinstance(entry, dict)]}
    return {}
