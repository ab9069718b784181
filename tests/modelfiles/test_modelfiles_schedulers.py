"""Schedulers by the names that people know."""

from __future__ import annotations

import pytest

from modelfiles import schedulers
from modelfiles.families import SchedulerKind
from modelfiles.schedulers import FLOW, NOISE, TABLE, find, folded, offered


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Euler a", "Euler a"),
        ("euler_a", "Euler a"),
        ("EULER ANCESTRAL", "Euler a"),
        ("Euler", "Euler"),
        ("euler_k", "Euler Karras"),
        ("DPM++ 2M Karras", "DPM++ 2M Karras"),
        ("dpmpp_2m karras", "DPM++ 2M Karras"),
        ("dpmpp_2m_sde", "DPM++ 2M SDE"),
        ("uni_pc", "UniPC"),
        ("UniPC", "UniPC"),
        ("lcm", "LCM"),
        ("plms", "PNDM"),
        ("DDIMScheduler", "DDIM"),
        ("heundiscrete", "Heun"),
    ],
)
def test_a_name_is_found_in_any_spelling(name: str, expected: str) -> None:
    found = find(name, list(NOISE))
    assert found is not None and found.name == expected


@pytest.mark.parametrize("name", ["", "subprocess", "Euler b", "++", "DPM"])
def test_what_is_no_scheduler_is_none(name: str) -> None:
    assert find(name, list(NOISE)) is None


def test_a_class_decides_nothing_but_itself_and_kinds_stay_apart() -> None:
    found = find("DPMSolverMultistepScheduler", list(NOISE))
    assert found is not None and (found.class_name, dict(found.settings)) == ("DPMSolverMultistepScheduler", {})
    assert find("DDIM", list(FLOW)) is None
    euler = find("euler", list(FLOW))
    assert euler is not None and euler.class_name == "FlowMatchEulerDiscreteScheduler"


@pytest.mark.parametrize("kind", SchedulerKind)
def test_no_two_choices_of_a_kind_have_one_name(kind: SchedulerKind) -> None:
    names = [folded(one.name) for one in TABLE[kind]]
    assert len(set(names)) == len(names)
    for one in TABLE[kind]:
        for word in (one.name, *one.aliases):
            found = find(word, list(TABLE[kind]))
            assert found is not None and found.name == one.name, word


def test_what_needs_a_package_that_is_absent_or_knows_no_zero_snr_is_not_offered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(schedulers, "_is_there", lambda package: package == "")
    assert "LMS" not in [one.name for one in offered(SchedulerKind.NOISE)]
    monkeypatch.setattr(schedulers, "_is_there", lambda _: True)
    assert "LMS" in [one.name for one in offered(SchedulerKind.NOISE)]
    names = [one.name for one in offered(SchedulerKind.NOISE, zero_snr=True)]
    assert "Euler a" in names and not {"PNDM", "Heun", "LMS"} & set(names)
