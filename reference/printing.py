"""Exchanges as Markdown, and back: what a page shows is held against what a broker says now."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from reference.transcripts import Exchange, Frames

MOST_ALIKE = 2
"""Progress replies shown of a row of them."""

KINDS = ((b"\x89PNG", "PNG"), (b"\xff\xd8", "JPEG"), (b"RIFF", "WebP"))
_LINE = re.compile(r"^(→|←|⇐)( \S+)?$")


def printed(exchanges: Iterable[Exchange]) -> str:
    """All of them, one beneath the other."""
    return "\n".join(line for exchange in exchanges for line in _exchange(exchange))


def _exchange(exchange: Exchange) -> Iterator[str]:
    yield f"### {exchange.title}\n"
    yield f"{exchange.about}\n"
    row = 0
    for index, frames in enumerate(exchange.frames):
        later = exchange.frames[index + 1 :]
        is_one_more = _is_progress(frames) and bool(later) and _is_progress(later[0])
        row = row + 1 if _is_progress(frames) else 0
        if row > MOST_ALIKE and is_one_more:
            continue
        yield "```"
        yield frames.sign + (f" {frames.topic}" if frames.topic else "")
        yield json.dumps(frames.payload, indent=2, ensure_ascii=False)
        yield from (f"[{_kind(data)}, {len(data)} bytes]" for data in frames.attachments)
        yield "```\n"


def _is_progress(frames: Frames) -> bool:
    return frames.sign == "←" and frames.payload.get("state") == "progress"


def _kind(data: bytes) -> str:
    return next((name for magic, name in KINDS if data.startswith(magic)), "a frame")


def shapes(text: str) -> list[tuple[str, Any]]:
    """What a page's exchanges are like: each message's sign and fields, values as their kinds; of a row of progress
    replies one."""
    found: list[tuple[str, Any]] = []
    for block in re.findall(r"```\n(.*?)\n```", text, re.DOTALL):
        head, _, rest = block.partition("\n")
        match = _LINE.match(head)
        assert match is not None, head
        lines = rest.split("\n")
        frames = sum(line.startswith("[") and line.endswith("bytes]") for line in lines)
        payload = json.loads("\n".join(lines[: len(lines) - frames]))
        shape = (f"{match[1]} {frames}", _shape(payload))
        if not (found and found[-1] == shape and payload.get("state") == "progress"):
            found.append(shape)
    return found


TELLING = {"action", "state", "code", "job_state", "success", "Action", "State", "Success"}
"""Fields whose values are compared too."""


def _shape(value: Any) -> Any:
    match value:
        case dict():
            return {key: item if key in TELLING else _shape(item) for key, item in value.items()}
        case list():
            return [_shape(value[0])] if value and isinstance(value[0], dict) else "list"
        case None | bool() | int() | float() | str():
            return "value"  # null where a figure was not measured in time
    raise TypeError(type(value).__name__)
