"""A model on disk: `inspect` says what lies at a path, or why it is no model.

Decides the one description that the catalogue lists, that a worker loads from and that a validation reports. Reads
headers and configurations, never weights.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path

import msgspec

from modelfiles import families, folders, profiles, recognition
from modelfiles.allowed import COMPONENTS, NAMED_PARTS, PICKLES
from modelfiles.beside import with_note
from modelfiles.families.record import LATENT_TENSORS
from modelfiles.fingerprints import Fingerprint
from modelfiles.headers import Header, Tensor, dtype_bytes, read_header
from modelfiles.jsonfile import corrupted, unsafe
from modelfiles.paths import Roots
from modelfiles.profiles import VirtualProfile
from modelfiles.statements import Statement, packed_format, statement_of
from modelfiles.tails import check_end
from modelfiles.text import is_text, shown
from protocol.enums import ComponentType, ModelType
from protocol.errors import ErrorCode, Fault
from protocol.records import Record
from settings.logs import Logger

log = Logger()

PART_TYPES = {
    ComponentType.UNet: ModelType.UNet,
    ComponentType.VAE: ModelType.VAE,
    ComponentType.ControlNet: ModelType.ControlNet,
    ComponentType.TextEncoder: ModelType.TextEncoder,
}
"""What a folder is that holds one part alone."""


class Kind(enum.Enum):
    """How a model is kept."""

    SINGLE = "single"
    FOLDER = "folder"
    VIRTUAL = "virtual"


class Part(Record, frozen=True, kw_only=True):
    """One part of a model: `size_bytes` of its weight files (of its tensors within a single file, 0 without weights).

    `path` is its folder, or the single file; `files` its weight files; `prefixes` its tensors within a single file.
    `reads` is all that a library may read of its folder: the name under which it looks for a file → the checked file.
    """

    name: str
    type: ComponentType
    path: str
    size_bytes: int = 0
    tensor_bytes: int = 0
    files: list[str] = []
    config: str = ""
    library: str = ""
    class_name: str = ""
    prefixes: list[str] = []
    reads: dict[str, str] = {}


class ModelFile(Record, frozen=True, kw_only=True):
    """A checked model.

    `size_bytes`: of the file, of the weight files that the pipeline uses, or the profile's; `tensor_bytes`: of the
    tensors among them that are used, `unused_bytes`: of those that are not, such as a second, averaged copy.
    `dtype` is the type with the most bytes ("" for a profile). `family` is its name, of an adapter
    that of the models it was made for, "" where there is none.
    `says` is what a single file says of itself, `packed` the format of numbers that are no plain ones.
    `config_path` is the folder of the same stem beside a single file ("" where there is none). `native_side` is the
    side in pixels that the configuration or ModelSpec states, 0 where none does.
    """

    path: str
    kind: Kind
    type: ModelType
    size_bytes: int
    tensor_bytes: int
    parts: list[Part]
    fingerprints: list[Fingerprint]
    metadata: dict[str, str] = {}
    dtype: str = ""
    dtype_bytes: dict[str, int] = {}
    config_path: str = ""
    class_name: str = ""
    native_side: int = 0
    in_channels: int = 0
    latent_channels: int = 0
    profile: VirtualProfile | None = None
    unused_bytes: int = 0
    family: str = ""
    says: Statement = Statement()
    packed: str = ""

    @property
    def weights_bytes(self) -> int:
        """What the weights take as they lie on disk: the files, without the tensors that nothing uses."""
        return self.size_bytes - self.unused_bytes

    @property
    def weight_files(self) -> list[Path]:
        """The files that its weights lie in, sorted; none of a profile."""
        return [Path(name) for name in sorted({name for part in self.parts for name in part.files})]


def inspect(path: str | Path, roots: Roots, field: str = "model_path") -> ModelFile:
    """What lies at `path`, checked for safety and wholeness.

    Raises Fault INVALID_ARGUMENT (outside the roots; no model's suffix), MODEL_NOT_FOUND, UNSAFE_MODEL,
    MODEL_CORRUPTED.
    """
    resolved = roots.existing(str(path), field)
    try:
        return _understood(resolved, roots)
    except Fault as fault:
        # Whoever is refused is told by the same rules: which of their fields, and which file.
        details = {"field": field, "file": shown(resolved.name), **fault.info.details}
        raise Fault.of(msgspec.structs.replace(fault.info, details=details)) from None


def _understood(resolved: Path, roots: Roots) -> ModelFile:
    """As `inspect`, with one error for whatever a file makes of its reader."""
    name = shown(resolved.name)
    try:
        if not is_text(str(resolved)):
            raise corrupted(f"{name}: its path is no Unicode text")
        model = _inspect(resolved, roots)
        msgspec.json.encode(model)
    except Fault:
        raise
    except OSError as error:
        raise corrupted(f"{name} cannot be read: {error.strerror}") from None
    except Exception as error:
        # Whatever a file makes of its reader is that file's trouble alone.
        log.exception("a model file could not be understood", file=name)
        raise corrupted(f"{name} could not be understood: {type(error).__name__}") from None
    return model


def _inspect(path: Path, roots: Roots) -> ModelFile:
    name = path.name.lower()
    if path.is_dir():
        return _folder(path, roots)
    if name.endswith(profiles.SUFFIX):
        return _virtual(path)
    if path.suffix.lower() in PICKLES:
        raise unsafe(f"{path.name} is a pickle, whose reading runs what it holds: convert it to safetensors")
    if path.suffix.lower() == ".safetensors":
        return _single(path, roots)
    raise Fault(
        ErrorCode.INVALID_ARGUMENT,
        f"{path.name} is no model: expected a .safetensors file, a {profiles.SUFFIX} profile or a diffusers folder",
    )


def _virtual(path: Path) -> ModelFile:
    fingerprint = Fingerprint.of(path)
    profile = profiles.read_profile(path)
    family = families.of_type(profile.family)
    parts = [
        Part(
            name=name,
            type=NAMED_PARTS.get(name, ComponentType.Unknown),
            path=str(path),
            size_bytes=size,
            tensor_bytes=size,
        )
        for name, size in profile.components.items()
    ]
    return ModelFile(
        path=str(path),
        kind=Kind.VIRTUAL,
        type=profile.family,
        family=family.name if family else "",
        size_bytes=profile.bytes,
        tensor_bytes=profile.bytes,
        parts=parts,
        fingerprints=[fingerprint],
        profile=profile,
    )


def _single(path: Path, roots: Roots) -> ModelFile:
    header = read_header(path)
    found = recognition.recognise(header.tensors)
    family = families.named(found.family)
    if found.type is not ModelType.LoRA:
        # Adapters begin with matrices of zeros, and end in some where nothing was learned.
        check_end(header)
    used = recognition.used(found, header.tensors)
    dtypes = dtype_bytes(used)
    says, notes = with_note(statement_of(header.tensors, header.metadata), path, roots)
    fingerprints = [header.fingerprint, *notes]
    config_folder = path.with_suffix("")
    config_path = ""
    if folders.is_pipeline_folder(config_folder):
        pipeline = folders.read_pipeline(roots.inside(config_folder), roots, with_weights=False)
        config_path = str(roots.inside(config_folder))
        fingerprints += pipeline.watched
    return ModelFile(
        path=str(path),
        kind=Kind.SINGLE,
        type=found.type,
        size_bytes=header.fingerprint.size,
        tensor_bytes=sum(dtypes.values()),
        unused_bytes=header.data_bytes - sum(dtypes.values()),
        parts=_single_parts(path, found, used),
        family=found.family,
        says=says,
        packed="" if found.type is ModelType.LoRA else packed_format(header.tensors),
        fingerprints=fingerprints,
        metadata=header.metadata,
        dtype=_most(dtypes),
        dtype_bytes=dtypes,
        config_path=config_path,
        native_side=_stated_side(header.metadata),
        in_channels=_channels(header, family.denoiser.originals) if family else 0,
        latent_channels=_channels(header, LATENT_TENSORS),
    )


def _single_parts(path: Path, found: recognition.Recognised, used: Sequence[Tensor]) -> list[Part]:
    return [
        Part(
            name=part.name,
            type=part.type,
            path=str(path),
            size_bytes=sum(tensor.bytes for tensor in tensors),
            tensor_bytes=sum(tensor.bytes for tensor in tensors),
            files=[str(path)],
            prefixes=[prefix for prefix in part.prefixes if prefix],
        )
        for part, tensors in recognition.file_parts(found, used).items()
    ]


def _folder(path: Path, roots: Roots) -> ModelFile:
    if folders.is_pipeline_folder(path):
        if not folders.has_weights(path):
            raise corrupted(f"{path.name} holds configurations without weights", missing="weights")
        pipeline = folders.read_pipeline(path, roots)
        return _folder_model(path, pipeline.parts, pipeline.watched, pipeline)
    if (path / "config.json").is_file():
        part = folders.read_part_folder(path, roots)
        return _folder_model(path, [part], part.watched, None)
    raise corrupted(f"{path.name} is a folder without {folders.INDEX} and without config.json", missing=folders.INDEX)


def _folder_model(
    path: Path, listed: list[folders.FolderPart], watched: list[Fingerprint], pipeline: folders.PipelineFolder | None
) -> ModelFile:
    dtypes: dict[str, int] = {}
    for part in listed:
        for dtype, size in (part.weights.dtype_bytes if part.weights else {}).items():
            dtypes[dtype] = dtypes.get(dtype, 0) + size
    parts = [_folder_part(part) for part in listed]
    family = families.named(pipeline.family) if pipeline else None
    return ModelFile(
        path=str(path),
        kind=Kind.FOLDER,
        type=family.type if family else PART_TYPES.get(_own_type(listed[0]), ModelType.Unknown),
        size_bytes=sum(part.size_bytes for part in parts),
        tensor_bytes=sum(part.tensor_bytes for part in parts),
        parts=parts,
        fingerprints=watched,
        dtype=_most(dtypes),
        dtype_bytes=dtypes,
        packed=next((part.weights.packed for part in listed if part.weights and part.weights.packed), ""),
        family=pipeline.family if pipeline else "",
        class_name=pipeline.class_name if pipeline else listed[0].class_name,
        native_side=pipeline.sample_size * family.latent_factor if pipeline and family else 0,
        in_channels=pipeline.in_channels if pipeline else 0,
        latent_channels=pipeline.latent_channels if pipeline else 0,
    )


def _own_type(part: folders.FolderPart) -> ComponentType:
    """What the part's class says, whatever its folder is called."""
    return COMPONENTS[part.library, part.class_name]


def _folder_part(part: folders.FolderPart) -> Part:
    weights = part.weights
    return Part(
        name=part.name,
        type=part.type,
        path=part.folder,
        size_bytes=weights.file_bytes if weights else 0,
        tensor_bytes=weights.tensor_bytes if weights else 0,
        files=weights.files if weights else [],
        config=part.config,
        library=part.library,
        class_name=part.class_name,
        reads=part.reads,
    )


def _most(dtypes: dict[str, int]) -> str:
    return max(dtypes, key=lambda dtype: (dtypes[dtype], dtype), default="")


def _stated_side(metadata: dict[str, str]) -> int:
    """The longer side of `modelspec.resolution`, such as 1024x1024; 0 where none is stated."""
    sides = metadata.get("modelspec.resolution", "").lower().split("x")
    return max((int(side) for side in sides if side.isascii() and side.isdigit() and len(side) < 6), default=0)


def _channels(header: Header, names: tuple[str, ...]) -> int:
    """The channels that the first of these tensors takes; 0 where the file has none of them."""
    return next((tensor.shape[1] for tensor in header.tensors if tensor.name in names and len(tensor.shape) > 1), 0)
