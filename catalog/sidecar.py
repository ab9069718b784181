"""What clients wrote of a model, as a file beside it: for people, for other programs, and for a catalogue begun anew.

Decides where that file lies and that it is whole at any moment. The database is the authority: a sidecar is read where
it has no record of a model, and where it cannot be written the change stands all the same.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from catalog.entry import Entry
from catalog.header import carried, given
from catalog.ids import MODEL_ID
from catalog.written import Written, patch
from modelfiles.jsonfile import read_object
from modelfiles.model import ModelFile
from modelfiles.paths import Roots
from protocol.errors import Fault
from protocol.records import Record
from settings.logs import Logger

SUFFIX = ".vrambroker.json"
FORMAT = 1
LIMIT_BYTES = 4 << 20
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})

log = Logger()


class Sidecar(Record, frozen=True, kw_only=True):
    """The file's content."""

    format: int
    model_id: str
    revision: int
    written_at: datetime
    written: Written


class Sidecars:
    """The sidecars of every model; `spare` is the folder for those of roots that take no files."""

    def __init__(self, spare: Path, roots: Roots) -> None:
        self._spare, self._roots = spare, roots

    def write(self, entry: Entry, *, is_first: bool) -> str:
        """Write what was written of a model beside it; "" where that is done, else a warning that says where it is.

        A file may have several ids: what lies beside it is the first one's, the others have theirs in the other folder.
        """
        content = Sidecar(
            format=FORMAT,
            model_id=entry.id,
            revision=entry.revision,
            written_at=datetime.now(UTC),
            written=entry.written,
        )
        data = msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"
        if not is_first:
            return self._write_spare(entry, data, "")
        try:
            place(beside(entry.file.path), data)
        except OSError as error:
            if error.errno not in READ_ONLY:
                return f"the sidecar of {entry.id} was not written: {error.strerror}; the catalogue has the change"
            return self._write_spare(entry, data, str(error.strerror))
        return ""

    def _write_spare(self, entry: Entry, data: bytes, reason: str) -> str:
        path = self._spare / f"{entry.id}{SUFFIX}"
        try:
            self._spare.mkdir(parents=True, exist_ok=True)
            place(path, data)
        except OSError as error:
            return f"the sidecar of {entry.id} was not written: {error.strerror}; the catalogue has the change"
        return f"{entry.id} lies where nothing can be written ({reason}): its sidecar is {path}" if reason else ""

    def drop_spare(self, model_id: str) -> None:
        """Remove the sidecar that lies here and not beside the model; nothing is said where none does."""
        with suppress(OSError):
            (self._spare / f"{model_id}{SUFFIX}").unlink(missing_ok=True)

    def beside(self, model: ModelFile) -> Sidecar | None:
        """What lies beside a model; None where there is none to be read."""
        return self._read(beside(model.path))

    def recalled(self, model: ModelFile, model_id: str, beside: Sidecar | None) -> Written | None:
        """What was written under an id: in the folder for such, else of its file under any id, else in the header."""
        spare = self._read(self._spare / f"{model_id}{SUFFIX}")
        found = spare or beside
        if spare and beside and beside.model_id == model_id and beside.revision > spare.revision:
            found = beside
        return found.written if found else carried(model)

    def _read(self, path: Path) -> Sidecar | None:
        """A sidecar, held to the rules of a client: anybody may have brought it."""
        try:
            if not path.is_file():
                return None
            if path.parent != self._spare:
                self._roots.inside(path)
            found = msgspec.convert(read_object(path, LIMIT_BYTES), Sidecar)
            if found.format != FORMAT:
                raise ValueError(f"it is of format {found.format}; this program reads {FORMAT}")
            model_id = found.model_id if MODEL_ID.fullmatch(found.model_id) else ""
            written = patch(Written(), given(found.written), {}, validate=True).written
            return msgspec.structs.replace(found, model_id=model_id, written=written)
        except (OSError, Fault, ValueError, TypeError, msgspec.ValidationError) as error:
            log.warning("a sidecar cannot be read: it is left alone", path=str(path), reason=str(error))
        return None


def beside(model_path: str) -> Path:
    """Where a model's sidecar lies: beside its file or folder, under its whole name."""
    path = Path(model_path)
    return path.with_name(path.name + SUFFIX)


def place(path: Path, data: bytes) -> None:
    """A file that is the old one or the new one, and on disk when this returns. Raises OSError."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        scratch.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise
