"""Pages that are partly made: what stands between two marks is replaced, the rest is somebody's words."""

from __future__ import annotations

from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


class PageError(Exception):
    """A page without its marks."""


def marks(name: str) -> tuple[str, str]:
    """The lines that begin and end a made part."""
    return f"<!-- {name}: made by `make docs` -->", f"<!-- {name}: end -->"


def part(text: str, name: str) -> str:
    """What stands between a page's marks. Raises PageError."""
    begin, end = marks(name)
    if text.count(begin) != 1 or text.count(end) != 1:
        raise PageError(f"the page has no part '{name}' between its marks")
    return text.partition(begin)[2].partition(end)[0].strip("\n")


def with_part(text: str, name: str, made: str) -> str:
    """The page with its made part replaced. Raises PageError."""
    part(text, name)
    begin, end = marks(name)
    before, after = text.partition(begin)[0], text.partition(end)[2]
    return f"{before}{begin}\n\n{made.strip(chr(10))}\n\n{end}{after}"
