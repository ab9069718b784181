"""What the catalogue keeps of one model.

Decides what is durable. Where a model is held now, and how it performed, are other records.
"""

from __future__ import annotations

from datetime import datetime

from catalog.notes import Notes
from catalog.written import Written
from modelfiles import families
from modelfiles.families import Family
from modelfiles.model import ModelFile
from modelfiles.modes import family_of, modes_of
from protocol.enums import HashDepth, ModelStatus, ModelType
from protocol.link import ModelRef, ProfileFigures
from protocol.records import Record


class Entry(Record, frozen=True, kw_only=True):
    """One model id. `status` is of the file: Available, Missing, Corrupted or Error (unsafe), `reason` says why.

    `declared_type` stands where the file itself tells none. `mark` tells whether a file that must be looked at holds
    what it held, "" before it was made. `checksum` is "" before hashing, `hash_depth` how deep it went. `notes` is what
    other programs keep beside it, `written` what clients said of it. `revision` grows with every change.
    """

    id: str
    file: ModelFile
    declared_type: ModelType = ModelType.Unknown
    status: ModelStatus = ModelStatus.Available
    reason: str = ""
    notes: Notes = Notes()
    written: Written = Written()
    mark: str = ""
    checksum: str = ""
    hash_depth: HashDepth = HashDepth.NONE
    revision: int = 0
    added_at: datetime
    updated_at: datetime

    @property
    def type(self) -> ModelType:
        return self.declared_type if self.file.type is ModelType.Unknown else self.file.type

    @property
    def family(self) -> Family | None:
        """What its tensors say, else what it was declared to be; None for what draws nothing."""
        return family_of(self.file) or families.of_type(self.type)

    @property
    def native_side(self) -> int:
        """Pixels to a side: what the file states, else what the family was trained for, else 0."""
        return self.file.native_side or (self.family.native_side if self.family else 0)

    @property
    def working_bytes(self) -> int:
        """What a picture of the native side takes beside the weights, by the family's bytes for each pixel."""
        return self.native_side**2 * self.family.working_bytes_per_pixel if self.family else 0

    def ref(self) -> ModelRef:
        """What the broker and workers need to know of it."""
        return ModelRef(
            model_id=self.id,
            path=self.file.path,
            type=self.type,
            size_bytes=self.file.weights_bytes,
            status=self.status,
            config_path=self.file.config_path,
            revision=self.revision,
            profile=_figures(self.file),
            modes=list(modes_of(self.file)),
            native_side=self.native_side,
            working_bytes=self.working_bytes,
        )


def _figures(file: ModelFile) -> ProfileFigures | None:
    profile = file.profile
    if profile is None:
        return None
    return ProfileFigures(load_ms=profile.load_ms, step_ms=profile.step_ms, peak_bytes=profile.peak_bytes)
