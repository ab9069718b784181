"""What a part of a pipeline may be: its slot's kind, its own word for its class, and the vocabulary that it needs.

Decides whether a listed class is where it belongs. A class on the list in another's place would be built from, and
draw, what it never was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from modelfiles import families
from modelfiles.allowed import COMPONENTS
from modelfiles.families import Family
from modelfiles.jsonfile import JsonObject, corrupted, incompatible
from protocol.enums import ComponentType

_ENCODER = frozenset({ComponentType.TextEncoder})
_TOKENIZER = frozenset({ComponentType.Tokenizer})
SLOTS: Mapping[str, frozenset[ComponentType]] = {
    "unet": frozenset({ComponentType.UNet}),
    "transformer": frozenset({ComponentType.Transformer}),
    "vae": frozenset({ComponentType.VAE}),
    "controlnet": frozenset({ComponentType.ControlNet}),
    "text_encoder": _ENCODER,
    "text_encoder_2": _ENCODER,
    "text_encoder_3": _ENCODER,
    "tokenizer": _TOKENIZER,
    "tokenizer_2": _TOKENIZER,
    "tokenizer_3": _TOKENIZER,
    "scheduler": frozenset({ComponentType.Scheduler}),
    "safety_checker": frozenset({ComponentType.SafetyChecker}),
    "image_encoder": frozenset({ComponentType.ImageEncoder}),
    "feature_extractor": frozenset({ComponentType.Unknown}),
}
"""A part's name in the index → what it may be. Parts of other names are checked, and not used."""

SAME: Mapping[str, frozenset[str]] = {
    "CLIPTextModel": frozenset({"CLIPModel", "CLIPTextModelWithProjection"}),
    "CLIPTextModelWithProjection": frozenset({"CLIPModel", "CLIPTextModel"}),
    "CLIPVisionModelWithProjection": frozenset({"CLIPModel"}),
    "SiglipVisionModel": frozenset({"SiglipModel"}),
    "T5EncoderModel": frozenset({"T5ForConditionalGeneration"}),
    **{name: classes for family in families.ALL for name, classes in family.equivalents.items()},
}
"""Classes of transformers → those whose weights and configuration serve them too."""

CONFIGS: Mapping[ComponentType, str] = {
    ComponentType.Scheduler: "scheduler_config.json",
    ComponentType.Unknown: "preprocessor_config.json",
}
"""The configuration that a part without weights cannot be made without."""

VOCABULARIES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "CLIPTokenizer": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "CLIPTokenizerFast": (("tokenizer.json",), ("vocab.json", "merges.txt")),
    "T5Tokenizer": (("tokenizer.json",), ("spiece.model",)),
    "T5TokenizerFast": (("tokenizer.json",), ("spiece.model",)),
    **{name: sets for family in families.ALL for name, sets in family.vocabularies.items()},
}
"""A tokenizer's class → the sets of files of which one has to be there: without it, every prompt draws the same."""

VOCABULARY_LIMIT_BYTES = 64 << 20
"""Of each of these files; T5's has 2.4 MB."""


def check_needed(class_name: str, family: Family, names: Iterable[str]) -> None:
    """Raise Fault MODEL_CORRUPTED naming the parts that a folder of this family lacks."""
    missing = sorted(family.needed - set(names))
    if missing:
        raise corrupted(f"a {class_name} needs {', '.join(missing)}, which its index does not name", missing=missing[0])


def check_slot(name: str, pair: tuple[str, str]) -> None:
    """Raise Fault MODEL_INCOMPATIBLE where a part's class is of another kind than its name says."""
    wanted, kind = SLOTS.get(name), COMPONENTS[pair]
    if wanted is not None and kind not in wanted:
        words = " or ".join(sorted(one.value for one in wanted))
        raise incompatible(f"{name} is {pair[1]}, a {kind.value}: expected a {words}", key=name)


def check_class(name: str, class_name: str, configs: Mapping[str, JsonObject]) -> None:
    """Raise Fault MODEL_INCOMPATIBLE where a part's own configuration is of another class than the index says."""
    for file, config in configs.items():
        own = config.get("_class_name")
        if isinstance(own, str) and own != class_name:
            raise incompatible(f"{name}/{file} is of a {own[:80]}, and the index says {class_name}", key="_class_name")
        architectures = config.get("architectures")
        listed = architectures if isinstance(architectures, list) else []
        if listed and not {class_name, *SAME.get(class_name, ())} & set(map(str, listed)):
            raise incompatible(
                f"{name}/{file} is of a {listed[0]}, and the index says {class_name}", key="architectures"
            )


def check_vocabulary(folder: Path, name: str, class_name: str) -> None:
    """Raise Fault MODEL_CORRUPTED where a tokenizer has no vocabulary."""
    sets = VOCABULARIES.get(class_name, ())
    if sets and not any(all((folder / file).is_file() for file in files) for files in sets):
        wanted = " or ".join(" and ".join(files) for files in reversed(sets))
        raise corrupted(f"{name} has no vocabulary: {wanted} is missing", missing=f"{name}/{sets[-1][0]}")


def check_size(path: Path, size: int, name: str) -> None:
    """Raise Fault MODEL_CORRUPTED where a vocabulary is larger than any."""
    if size > VOCABULARY_LIMIT_BYTES:
        text = f"{name}/{path.name} has {size} bytes: the limit of a vocabulary is {VOCABULARY_LIMIT_BYTES}"
        raise corrupted(text, limit_bytes=VOCABULARY_LIMIT_BYTES)
