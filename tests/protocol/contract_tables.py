"""The tables of `contract_types.md` (a copy of the host's types) as data."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_TITLE = re.compile(r"^### (\w+)( \(enum\))?$")
_ROW = re.compile(r"^\| (\w+) \| `(\w+)` \| (.+?) \| (.*?) ?\|$")
_MEMBER = re.compile(r"(\w+) = (\d+)")


class HostField(NamedTuple):
    """One row: the host's property, its wire name, its type and default as the page writes them."""

    host: str
    wire: str
    type: str
    default: str


class HostType(NamedTuple):
    """One table; the page has two called ModelMemoryUsage."""

    name: str
    fields: list[HostField]


def read() -> tuple[list[HostType], dict[str, dict[str, int]]]:
    """Every record of the page in its order, and every enum with its ordinals."""
    records: list[HostType] = []
    enums: dict[str, dict[str, int]] = {}
    enum_name = ""
    for line in (Path(__file__).parent / "contract_types.md").read_text().splitlines():
        if title := _TITLE.match(line):
            enum_name = title[1] if title[2] else ""
            if not enum_name:
                records.append(HostType(title[1], []))
        elif (row := _ROW.match(line)) and row[1] != "field":
            records[-1].fields.append(HostField(*row.groups()))
        elif enum_name and (members := _MEMBER.findall(line)):
            enums[enum_name] = {name: int(ordinal) for name, ordinal in members}
    return records, enums
