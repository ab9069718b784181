"""The configuration of a single-file checkpoint: the folder named, the folder beside it, or the family's own.

Decides which, and refuses what would load wrong weights without a word. Families come without a vocabulary: CLIP's is
read from open_clip's package where that is installed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from modelfiles import families, folders
from modelfiles.families import CONFIGURATIONS
from modelfiles.fingerprints import Fingerprint
from modelfiles.model import Kind
from modelfiles.paths import Roots
from modelfiles.recognition import TEXTUAL_INVERSION
from protocol.enums import ModelType
from protocol.errors import ErrorCode, Fault
from protocol.records import Record
from worker.devices.base import Build

PARTS_ALONE = frozenset({ModelType.LoRA, ModelType.VAE, ModelType.ControlNet, ModelType.TextEncoder, ModelType.UNet})
"""What is one part of a model, whatever its configuration."""

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
VOCABULARY_MERGES = 49152 - 256 - 2
TOKENIZER_PADS = {"tokenizer": "<|endoftext|>", "tokenizer_2": "!"}


class Configuration(Record, frozen=True, kw_only=True):
    """A checked folder of configurations; `is_family` where it is the project's own, without vocabularies.

    `reads` are its files by their path within it, `watched` the fingerprints of all that the check rests on.
    """

    path: str
    class_name: str
    family: str
    is_family: bool
    reads: dict[str, str]
    watched: list[Fingerprint]


def configuration_of(build: Build, roots: Roots) -> Configuration | None:
    """What a single file's pipeline is built by; None for a folder, which has its own.

    Raises Fault MODEL_LOADING_FAILED saying what is missing, UNSAFE_MODEL, INVALID_ARGUMENT.
    """
    if build.file.kind is not Kind.SINGLE:
        return None
    if build.config_path:
        folder, is_family = roots.existing(build.config_path, "config_path"), False
    elif build.file.config_path:
        folder, is_family = Path(build.file.config_path), False
    else:
        folder, is_family = _family(build), True
    if not folders.is_pipeline_folder(folder):
        raise Fault(ErrorCode.MODEL_LOADING_FAILED, f"{folder.name} has no {folders.INDEX}")
    pipeline = folders.read_pipeline(folder, Roots([folder]) if is_family else roots, with_weights=False)
    reads = {folders.INDEX: str(folder.resolve() / folders.INDEX)}
    for part in pipeline.parts:
        reads |= {f"{part.name}/{name}": path for name, path in part.reads.items()}
    return Configuration(
        path=str(folder),
        class_name=pipeline.class_name,
        family=pipeline.family,
        is_family=is_family,
        reads=reads,
        watched=pipeline.watched,
    )


def configuration_source(build: Build) -> str:
    """Where a single file's configuration came from, in words for its sender."""
    if build.config_path:
        return f"the configuration that config_path names ({Path(build.config_path).name})"
    stem = Path(build.file.path).stem
    if build.file.config_path:
        return f"the configuration in the folder {stem} beside it"
    return (
        f"the project's own {build.file.type.value} configuration: put its own in a folder {stem} beside it, "
        "or name it in config_path"
    )


def _family(build: Build) -> Path:
    name = Path(build.file.path).name
    is_words = build.file.family == TEXTUAL_INVERSION
    kind = TEXTUAL_INVERSION if is_words else build.file.type.value
    if build.file.type in PARTS_ALONE or is_words:
        text = f"{name} is a {kind}, which draws nothing by itself: load the model that it belongs to"
        raise Fault(ErrorCode.MODEL_INCOMPATIBLE, text, details={"type": kind})
    family = families.named(build.file.family)
    if family is None or not family.configuration:
        text = f"{name} ({build.file.type.value}) needs a configuration: a diffusers folder {Path(name).stem} beside it"
        raise Fault(ErrorCode.MODEL_LOADING_FAILED, f"{text}, or config_path")
    return CONFIGURATIONS / family.configuration


def own_tokenizers(configuration: Configuration) -> dict[str, Any]:
    """The tokenizers of a family's configuration; none where the folder has its vocabularies itself."""
    if not configuration.is_family:
        return {}
    vocabulary, merges = _clip_vocabulary()
    from transformers import CLIPTokenizer  # noqa: PLC0415 - the loader's import, not this module's

    return {
        name: CLIPTokenizer(vocab=vocabulary, merges=merges, pad_token=pad, model_max_length=77)
        for name, pad in TOKENIZER_PADS.items()
        if (Path(configuration.path) / name).is_dir()
    }


def _clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """CLIP's vocabulary and merges, as the published tokenizer numbers them."""
    import gzip  # noqa: PLC0415

    found = importlib.util.find_spec("open_clip")
    file = Path(found.origin).with_name(VOCABULARY) if found is not None and found.origin else None
    if file is None or not file.is_file():
        text = "the file needs a tokenizer: put a diffusers folder of its name beside it, or install open_clip_torch"
        raise Fault(ErrorCode.MODEL_LOADING_FAILED, text)
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")[1 : VOCABULARY_MERGES + 1]
    merges = [(first, second) for first, second in (line.split() for line in lines)]
    letters = _byte_letters()
    words = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: number for number, word in enumerate(words)}, merges


def _byte_letters() -> list[str]:
    """The letter that stands for each byte, printable ones first (CLIP's and GPT-2's `bytes_to_unicode`)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
