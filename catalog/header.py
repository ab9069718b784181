"""What clients wrote of a model, in the header of its own file: for other programs, and for a file that travels.

Decides which keys are written and what of them is read back. ModelSpec's keys say what it has keys for; all that was
written, exactly, stands as JSON under a key of our own. How the file is rewritten is `catalog.rewriting`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from catalog.written import Written, patch
from modelfiles.headers import LONGEST_METADATA
from modelfiles.model import ModelFile
from protocol.errors import ErrorCode, Fault
from settings.logs import Logger

KEY = "vrambroker.written"
SPEC: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "name": ("modelspec.title", str),
    "description": ("modelspec.description", str),
    "author": ("modelspec.author", str),
    "license": ("modelspec.license", str),
    "tags": ("modelspec.tags", ", ".join),
    "created_date": ("modelspec.date", lambda moment: moment.isoformat()),
}
"""A field → the key of ModelSpec 1.0.1 that says it, and how."""

log = Logger()


def with_words(metadata: Mapping[str, str], written: Written) -> dict[str, str]:
    """A header's metadata with what was written; what an earlier writing put there and nobody says any more goes.

    Every other key stays as it is.
    """
    before = _said(metadata.get(KEY, ""))
    result = dict(metadata)
    for field, (key, told) in SPEC.items():
        value = getattr(written, field)
        if value is not None:
            result[key] = told(value)
        elif before.get(field) is not None:
            result.pop(key, None)
    text = msgspec.json.encode(given(written)).decode()
    if len(text) > LONGEST_METADATA:
        reason = f"what was written of it has {len(text)} characters as JSON; a header takes {LONGEST_METADATA}"
        raise Fault(ErrorCode.INVALID_ARGUMENT, f"write_header: {reason}", details={"field": "write_header"})
    return result | {KEY: text}


def given(written: Written) -> dict[str, Any]:
    """The fields that are there."""
    return {name: value for name, value in msgspec.structs.asdict(written).items() if value not in (None, {})}


def carried(model: ModelFile) -> Written | None:
    """What an earlier writing put into a file, held to the rules of a client's patch; None where there is none."""
    text = model.metadata.get(KEY, "")
    if not text:
        return None
    try:
        return patch(Written(), _said(text), {}, validate=True).written
    except Fault as fault:
        log.warning("what a header carries cannot be taken", path=model.path, reason=str(fault))
        return None


def _said(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text) if text else {}
    except (msgspec.DecodeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
