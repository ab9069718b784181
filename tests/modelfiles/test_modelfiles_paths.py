from __future__ import annotations

from pathlib import Path

import pytest

from modelfiles.paths import Roots
from protocol.errors import ErrorCode, Fault


@pytest.fixture
def roots(tmp_path: Path) -> Roots:
    (tmp_path / "models" / "a").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "secret").write_text("x")
    (tmp_path / "models" / "escape").symlink_to(tmp_path / "secret")
    (tmp_path / "models" / "inner").symlink_to(tmp_path / "models" / "a")
    (tmp_path / "models" / "loop").symlink_to(tmp_path / "models" / "loop")
    return Roots([tmp_path / "models", tmp_path / "other"])


def test_path_beneath_a_root_is_resolved_through_links(roots: Roots, tmp_path: Path) -> None:
    assert roots.existing(str(tmp_path / "models/inner")) == tmp_path / "models/a"
    assert roots.existing(str(tmp_path / "models/../other")) == tmp_path / "other"
    assert roots.existing("a") == tmp_path / "models/a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../secret",
        "models/../../secret",
        "{tmp}/secret",
        "{tmp}/nothing",
        "{tmp}/models/escape",
        "{tmp}/models2",
        "~/x",
        "a\0b",
        "/",
    ],
)
def test_path_outside_the_roots_is_an_invalid_argument_that_names_the_field(
    roots: Roots, tmp_path: Path, text: str
) -> None:
    with pytest.raises(Fault) as caught:
        roots.existing(text.replace("{tmp}", str(tmp_path)), "config_path")
    assert caught.value.code is ErrorCode.INVALID_ARGUMENT
    assert caught.value.info.details == {"field": "config_path"}
    assert str(tmp_path / "models") not in caught.value.info.message or "models" in text


def test_nothing_beneath_a_root_is_not_found(roots: Roots, tmp_path: Path) -> None:
    with pytest.raises(Fault) as caught:
        roots.existing(str(tmp_path / "models/none"))
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
    with pytest.raises(Fault) as caught:
        roots.existing("x" * 5000)
    assert caught.value.code is ErrorCode.MODEL_NOT_FOUND
    assert len(caught.value.info.message) < 300
    assert roots.resolve(str(tmp_path / "other/new/file.png")) == tmp_path / "other/new/file.png"


def test_part_that_is_a_link_out_of_the_roots_is_unsafe(roots: Roots, tmp_path: Path) -> None:
    with pytest.raises(Fault) as caught:
        roots.inside(tmp_path / "models/escape")
    assert caught.value.code is ErrorCode.UNSAFE_MODEL
    with pytest.raises(Fault):
        roots.inside(tmp_path / "models/loop")
