"""The environment of a broker of one's own: nothing of another broker's settings, and what it is to be told."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from settings.config import PREFIX


def environment(told: Mapping[str, str], keep: Iterable[str] = ()) -> dict[str, str]:
    """This process's environment with these settings, by the variables' names without their prefix.

    Of this process's own settings those named in `keep` stay, where it has them and `told` says nothing else.
    """
    plain = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    kept = {PREFIX + name: os.environ[PREFIX + name] for name in keep if os.environ.get(PREFIX + name)}
    return plain | kept | {PREFIX + name: value for name, value in told.items()}
