"""The tables of fields are what the structs say, and every field of a command has its meaning."""

from __future__ import annotations

import re

import msgspec
import pytest

from protocol.actions import ACTIONS
from protocol.commands import Command
from reference import fields, meanings
from reference.pages import DOCS, PageError, part, with_part

COMMON = {field.name for field in msgspec.structs.fields(Command)}
OWN = {
    name: [field.name for field in msgspec.structs.fields(action.command) if field.name not in COMMON]
    for name, action in ACTIONS.items()
}


def test_the_page_is_what_the_structs_say() -> None:
    assert (DOCS / "fields.md").read_text() == fields.page(), "run `make docs`"


@pytest.mark.parametrize("name", ACTIONS)
def test_every_field_of_a_command_has_a_meaning(name: str) -> None:
    assert all(meanings.meaning(name, field) for field in OWN[name])


def test_no_meaning_stands_in_vain() -> None:
    assert meanings.COMMON.keys() == COMMON
    assert meanings.OF_ALL.keys() <= {field for own in OWN.values() for field in own}
    for name, said in meanings.OF_ONE.items():
        assert said.keys() <= {*OWN[name], *COMMON}, name


def test_every_link_of_the_page_leads_somewhere() -> None:
    text = fields.page()
    heads = {re.sub(r"[^\w-]", "", head.lower().replace(" ", "-")) for head in re.findall(r"^#+ (.*)$", text, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= heads


def test_a_made_part_is_replaced_and_the_rest_is_left() -> None:
    page = "before\n<!-- x: made by `make docs` -->\nold\n<!-- x: end -->\nafter\n"
    made = with_part(page, "x", "new\n")
    assert part(made, "x") == "new" and made.startswith("before\n") and made.endswith("\nafter\n")
    assert with_part(made, "x", "new") == made
    with pytest.raises(PageError):
        part("no marks", "x")
