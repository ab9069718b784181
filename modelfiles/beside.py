"""What another program's note beside a single file says of how it is drawn.

Decides only what the file leaves open: its own tensors and header go before. A note that cannot be read says nothing.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from modelfiles.fingerprints import Fingerprint
from modelfiles.jsonfile import read_object
from modelfiles.paths import Roots
from modelfiles.statements import PREDICTION, SPEC_KEY, WORDS, Statement
from protocol.errors import Fault
from settings.logs import Logger

SUFFIX = ".swarm.json"
log = Logger()


def with_note(says: Statement, path: Path, roots: Roots) -> tuple[Statement, list[Fingerprint]]:
    """A file's statement, completed by the note of its stem, and the fingerprint of that."""
    note = path.with_suffix(SUFFIX)
    if says.prediction or not note.is_file():
        return says, []
    try:
        inside = roots.inside(note)
        fingerprint = Fingerprint.of(inside)
        content = read_object(inside)
    except (Fault, OSError):
        log.warning("a note beside a model cannot be read", file=note.name)
        return says, []
    said = next((content[key] for key in (SPEC_KEY, PREDICTION) if isinstance(content.get(key), str)), "")
    word = WORDS.get(str(said).strip().lower(), "")
    if not word:
        return says, [fingerprint]
    return msgspec.structs.replace(says, prediction=word, source=f"{PREDICTION} in {note.name}"), [fingerprint]
