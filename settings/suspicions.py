"""What looks like a mistake in how a broker was started, although it can be started so: told once, at the start."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from settings.config import PREFIX, VARIABLES, Settings
from settings.nearest import question


def suspicions(settings: Settings, environment: Mapping[str, str] | None = None) -> list[str]:
    """A sentence each: variables that nothing reads, model roots that are not there."""
    env = os.environ if environment is None else environment
    return [*_unknown_variables(env), *_missing_roots(settings.models)]


def _unknown_variables(env: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(env):
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in VARIABLES:
            near = question(name.removeprefix(PREFIX), VARIABLES, PREFIX)
            yield f"the environment variable {name} is not known and changes nothing{near}"


def _missing_roots(roots: tuple[Path, ...]) -> Iterator[str]:
    if not roots:
        yield f"there is no model root, so no model will be found: set {PREFIX}MODELS, or models in the file"
    for root in roots:
        if root.is_dir():
            continue
        what = "is no folder" if root.exists() else "does not exist"
        yield f"the model root {root} {what}: no model is found there{_sibling(root)}"


def _sibling(root: Path) -> str:
    """The folder beside it that was probably meant."""
    try:
        beside = [path.name for path in root.parent.iterdir() if path.is_dir()]
    except OSError:
        return ""
    return question(root.name, beside, f"{root.parent}/")
