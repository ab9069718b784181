"""Diffusers folders: which parts a `model_index.json` names, and the files of each.

Decides whether a folder is safe and whole, before any loader sees it. Only classes of `modelfiles.allowed` pass; only
safetensors count as weights. Knows nothing of tensors' meaning.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from modelfiles import families
from modelfiles.allowed import (
    ATTENTION_KEYS,
    ATTENTION_WORDS,
    CODE_KEYS,
    COMPONENTS,
    NUMBERED,
    PICKLES,
    PIPELINES,
    SAFE_CLASSES,
    WEIGHTED,
)
from modelfiles.fingerprints import Fingerprint
from modelfiles.fit import check_fit
from modelfiles.jsonfile import JsonObject, corrupted, read_object, unsafe
from modelfiles.paths import Roots
from modelfiles.roles import CONFIGS, SLOTS, check_class, check_needed, check_size, check_slot, check_vocabulary
from modelfiles.values import check_values
from modelfiles.weights import WEIGHTS, Weights, find_weights, weight_names
from protocol.enums import ComponentType
from protocol.errors import Fault
from protocol.records import Record

INDEX = "model_index.json"
PART_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
CONFIG_FILES = (
    "config.json",
    "scheduler_config.json",
    "tokenizer_config.json",
    "preprocessor_config.json",
    "generation_config.json",
    "processor_config.json",
    "special_tokens_map.json",
)
TEXT_FILES = (
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "added_tokens.json",
)
"""What a tokenizer or a processor reads beside its configuration."""

CLASS_KEYS = (
    "_class_name",
    "architectures",
    "tokenizer_class",
    "processor_class",
    "image_processor_type",
    "feature_extractor_type",
)


class FolderPart(Record, frozen=True, kw_only=True):
    """One part as the index names it; `config` is "" where the part has no configuration file.

    `watched` are the fingerprints, taken before reading, of all that the check rests on; `reads` as `model.Part` has
    it."""

    name: str
    type: ComponentType
    library: str
    class_name: str
    folder: str
    config: str = ""
    weights: Weights | None = None
    watched: list[Fingerprint]
    reads: dict[str, str] = {}


class PipelineFolder(Record, frozen=True, kw_only=True):
    """A checked folder: its pipeline class and parts; `watched` are all files and folders that the check rests on."""

    class_name: str
    family: str
    parts: list[FolderPart]
    watched: list[Fingerprint]
    sample_size: int = 0
    in_channels: int = 0
    latent_channels: int = 0


def is_pipeline_folder(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def is_part_folder(folder: Path) -> bool:
    """Whether the folder is one part by itself: a configuration beside weights of the standard names."""
    return (folder / "config.json").is_file() and any(
        (folder / name).is_file() for stem in WEIGHTS.values() for name in weight_names(stem)
    )


def has_weights(folder: Path) -> bool:
    """Whether any file beneath a pipeline's or part's folder, two levels deep, is of weights, safe or not."""
    return any(
        path.suffix.lower() in PICKLES or path.suffix.lower() == ".safetensors"
        for pattern in ("*", "*/*")
        for path in folder.glob(pattern)
    )


def read_pipeline(folder: Path, roots: Roots, *, with_weights: bool = True) -> PipelineFolder:
    """The checked pipeline in `folder`; `with_weights` False for a folder of configurations alone.

    Raises Fault UNSAFE_MODEL or MODEL_CORRUPTED.
    """
    index_path = roots.inside(folder / INDEX)
    watched = [Fingerprint.of(folder), Fingerprint.of(index_path)]
    index = read_object(index_path)
    refuse_code(index, INDEX)
    refuse_scripts(folder)
    class_name = index.get("_class_name")
    if not isinstance(class_name, str) or class_name not in PIPELINES:
        raise unsafe(f"{INDEX} names the pipeline {str(class_name)[:80]!r}, which is not on the list of safe classes")
    check_values(index, INDEX)
    named = _named_parts(index)
    names = [name for name, _ in named]
    check_needed(class_name, families.of_folder(class_name, {}, names), names)
    parts = [_read_part(folder, name, pair, roots, with_weights) for name, pair in named]
    denoiser = _config_of(parts, ComponentType.UNet, ComponentType.Transformer)
    family = families.of_folder(class_name, denoiser, names)
    check_fit(family, dict(named), {part.name: _config_of([part]) for part in parts})
    watched += [fingerprint for part in parts for fingerprint in part.watched]
    return PipelineFolder(
        class_name=class_name,
        family=family.name,
        parts=parts,
        watched=watched,
        sample_size=_size(denoiser.get("sample_size")),
        in_channels=_size(denoiser.get("in_channels")),
        latent_channels=_size(_config_of(parts, ComponentType.VAE).get(family.latent_key)),
    )


def read_part_folder(folder: Path, roots: Roots) -> FolderPart:
    """A folder that is one part by itself (a VAE, a ControlNet …). Raises as `read_pipeline`."""
    config = read_object(roots.inside(folder / "config.json"))
    architectures = config.get("architectures")
    named = architectures[0] if isinstance(architectures, list) and architectures else config.get("_class_name")
    library = "transformers" if isinstance(architectures, list) else "diffusers"
    if not isinstance(named, str) or (library, named) not in COMPONENTS:
        raise unsafe(f"config.json names the class {str(named)[:80]!r}, which is not on the list of safe classes")
    return _checked_part(folder, folder.name, (library, named), roots, with_weights=True)


def _named_parts(index: JsonObject) -> list[tuple[str, tuple[str, str]]]:
    """The (name, (library, class)) pairs of an index; absent parts, [null, null], are left out."""
    found = []
    for name, value in index.items():
        if name.startswith("_") or not (isinstance(value, list | dict) or name in SLOTS):
            continue
        if value in ([None, None], None):
            continue
        if not (isinstance(value, list) and len(value) == 2 and all(isinstance(word, str) for word in value)):
            raise unsafe(f"{INDEX}: {name[:64]} is not a pair of library and class")
        if not PART_NAME.fullmatch(name):
            raise unsafe(f"{INDEX}: {name[:64]!r} is not the name of a part")
        found.append((name, (value[0], value[1])))
    return found


def _read_part(folder: Path, name: str, pair: tuple[str, str], roots: Roots, with_weights: bool) -> FolderPart:
    if pair not in COMPONENTS:
        raise unsafe(f"{INDEX}: {name} is {pair[0][:40]}.{pair[1][:80]}, which is not on the list of safe classes")
    check_slot(name, pair)
    part_folder = roots.inside(folder / name)
    if not part_folder.is_dir():
        raise corrupted(f"{INDEX} names {name}, but the folder has no {name}", missing=name)
    return _checked_part(part_folder, name, pair, roots, with_weights=with_weights)


def _checked_part(folder: Path, name: str, pair: tuple[str, str], roots: Roots, *, with_weights: bool) -> FolderPart:
    """The part in `folder`; whatever is wrong with it names it."""
    try:
        return _part_of(folder, name, pair, roots, with_weights=with_weights)
    except Fault as fault:
        info = fault.info
        message = info.message if name in info.message else f"{name}: {info.message}"
        told = msgspec.structs.replace(info, message=message, details={"part": name, **info.details})
        raise Fault.of(told) from None


def _part_of(folder: Path, name: str, pair: tuple[str, str], roots: Roots, *, with_weights: bool) -> FolderPart:
    library, class_name = pair
    watched = [Fingerprint.of(folder)]
    refuse_scripts(folder)
    kind = COMPONENTS[pair]
    configs = check_configs(folder, name, class_name, roots)
    reads = {**configs, **_text_files(folder, name, roots)}
    if with_weights:
        check_vocabulary(folder, name, class_name)
    watched += reads.values()
    names = {file: fingerprint.path for file, fingerprint in reads.items()}
    weights = None
    if kind in WEIGHTED and with_weights:
        weights = find_weights(folder, WEIGHTS[library], name, roots)
        watched += weights.fingerprints
        names |= weights.reads
    needed = "config.json" if kind in WEIGHTED else CONFIGS.get(kind)
    if needed is not None and needed not in configs:
        raise corrupted(f"{name} has no {needed}", missing=f"{name}/{needed}")
    return FolderPart(
        name=name,
        type=NUMBERED.get(name, kind) if kind is ComponentType.TextEncoder else kind,
        library=library,
        class_name=class_name,
        folder=str(folder),
        config=next((config.path for config in configs.values()), ""),
        weights=weights,
        watched=watched,
        reads=names,
    )


def _text_files(folder: Path, part: str, roots: Roots) -> dict[str, Fingerprint]:
    """The vocabularies of a part by name. Raises Fault UNSAFE_MODEL where one leads out of the roots, MODEL_CORRUPTED
    where it is too large."""
    found: dict[str, Fingerprint] = {}
    for name in TEXT_FILES:
        if (folder / name).is_file():
            path = roots.inside(folder / name)
            found[name] = Fingerprint.of(path)
            check_size(path, found[name].size, part)
    return found


def check_configs(folder: Path, part: str, class_name: str, roots: Roots) -> dict[str, Fingerprint]:
    """The configuration files of a part by name, each free of code and with values that a class can be built from.

    Raises Fault UNSAFE_MODEL, MODEL_INCOMPATIBLE.
    """
    found: dict[str, Fingerprint] = {}
    contents: dict[str, JsonObject] = {}
    for name in CONFIG_FILES:
        if (folder / name).exists():
            path = roots.inside(folder / name)
            found[name] = Fingerprint.of(path)
            config = contents[name] = read_object(path)
            refuse_code(config, f"{part}/{name}")
            _refuse_classes(config, f"{part}/{name}")
            check_values(config, f"{part}/{name}")
    check_class(part, class_name, contents)
    return found


def refuse_code(value: object, what: str) -> None:
    """Raise Fault UNSAFE_MODEL when a configuration has, at any depth, a key that names code."""
    if isinstance(value, list):
        for item in value:
            refuse_code(item, what)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in CODE_KEYS and item not in (None, False):
                raise unsafe(f"{what} has {key}: a model must not bring code", key=key)
            if key in ATTENTION_KEYS and item is not None and not (isinstance(item, str) and item in ATTENTION_WORDS):
                raise unsafe(f"{what} has {key} {str(item)[:80]!r}: a model must not bring code", key=key)
            refuse_code(item, what)


def _refuse_classes(config: JsonObject, what: str) -> None:
    for key in CLASS_KEYS:
        value = config.get(key)
        for name in value if isinstance(value, list) else [value]:
            if name is not None and (not isinstance(name, str) or name not in SAFE_CLASSES):
                raise unsafe(
                    f"{what} names the class {str(name)[:80]!r}, which is not on the list of safe classes", key=key
                )


def refuse_scripts(folder: Path) -> None:
    """Raise Fault UNSAFE_MODEL when Python code lies in the folder."""
    for path in folder.iterdir():
        if path.suffix.lower() in (".py", ".pyc", ".so"):
            raise unsafe(f"{folder.name} holds the program {path.name[:80]}: a model must not bring code")


def _config_of(parts: list[FolderPart], *kinds: ComponentType) -> JsonObject:
    """The configuration of the first part, of one of these kinds where any is named."""
    for part in parts:
        if (not kinds or part.type in kinds) and part.config:
            return read_object(Path(part.config))
    return {}


def _size(value: object) -> int:
    if isinstance(value, list):
        return max((_size(item) for item in value), default=0)
    return value if type(value) is int and 0 < value <= 1 << 16 else 0
