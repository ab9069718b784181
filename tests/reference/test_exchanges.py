"""The exchanges of the protocol's page are had again: a broker says today what the page says it says."""

from __future__ import annotations

from reference.__main__ import EXCHANGES
from reference.pages import DOCS, part
from reference.printing import printed, shapes
from reference.transcripts import exchanges


def test_a_broker_says_what_the_page_says() -> None:
    shown = shapes(part((DOCS / "protocol.md").read_text(), EXCHANGES))
    said = shapes(printed(exchanges()))
    assert len(shown) > 20
    for (sign, page), (now_sign, now) in zip(shown, said, strict=True):
        assert (now_sign, now) == (sign, page), "run `make docs`"
