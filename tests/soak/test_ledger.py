"""The ledger: nothing lost, nothing doubled, no wrong picture goes by unseen, and nothing right is taken for one."""

from __future__ import annotations

from typing import Any

import pytest

from soak.ledger import Entry, Ledger, Outcome

DONE = Outcome("completed", "", 7, ("abc",))


def ledger(*ids: str, **fields: Any) -> Ledger:
    made = Ledger()
    for request_id in ids:
        made.sent(Entry(request_id=request_id, action="generate", sent_at=0.0, **fields))
    return made


def kinds(made: Ledger) -> list[str]:
    made.close()
    return sorted(one.kind for one in made.findings("lost", "doubled", "unknown", "wrong picture", "error"))


def test_a_command_that_was_answered_once_is_no_finding() -> None:
    made = ledger("a")
    made.answered("a", DONE, 1.0)
    assert kinds(made) == [] and made.counts["completed"] == 1


def test_a_command_without_an_answer_is_lost() -> None:
    made = ledger("a", "b")
    made.answered("a", DONE, 1.0)
    assert kinds(made) == ["lost"] and made.findings("lost")[0].request_id == "b"


def test_a_second_answer_to_one_sending_is_doubled() -> None:
    made = ledger("a")
    made.answered("a", DONE, 1.0)
    made.answered("a", DONE, 2.0)
    assert kinds(made) == ["doubled"]


def test_a_second_answer_to_a_second_sending_is_right_where_it_is_the_same() -> None:
    made = ledger("a", "b")
    for request_id in ("a", "b"):
        made.sent_again(request_id, 0)
        made.answered(request_id, DONE, 1.0)
    made.answered("a", DONE, 2.0)
    assert kinds(made) == []
    made.answered("b", Outcome("completed", "", 8, ("xyz",)), 2.0)
    assert kinds(made) == ["doubled"]
    assert "ran twice: completed seed 7, then completed seed 8" in made.findings("doubled")[0].text


def test_equal_seeds_draw_equal_bytes() -> None:
    made = ledger("a", "b", drawn=("real", "m", "7"))
    made.answered("a", DONE, 1.0)
    made.answered("b", DONE, 1.0)
    assert kinds(made) == []
    made.sent(Entry(request_id="c", action="generate", sent_at=0.0, drawn=("real", "m", "7")))
    made.answered("c", Outcome("completed", "", 7, ("other",)), 2.0)
    assert kinds(made) == ["wrong picture"]
    assert "real m 7: other bytes than those of a" in made.findings("wrong picture")[0].text


@pytest.mark.parametrize(("code", "found"), [("WORKER_LOST", []), ("CANCELLED", []), ("INTERNAL_ERROR", ["error"])])
def test_errors_that_faults_bring_are_expected_and_others_are_not(code: str, found: list[str]) -> None:
    made = ledger("a")
    made.answered("a", Outcome("failed", code, None, ()), 1.0)
    assert kinds(made) == found and made.errors[code] == 1


def test_an_answer_to_nothing_is_a_finding_and_an_abandoned_command_none() -> None:
    made = ledger("a")
    made.abandon("a")
    made.answered("zzz", DONE, 1.0)
    assert kinds(made) == ["unknown"]
